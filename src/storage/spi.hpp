// Short statements on the extension's own tables through SPI. Relay, and operators' functions in
// sessions.
#pragma once

#include "pg/postgres.hpp"

extern "C" {
#include "executor/spi.h"
}

namespace outbox {

// Connects to SPI for one block of statements; the caller finishes it. An error in between ends the
// transaction, and SPI with it.
inline void spi_begin() {
    if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "SPI_connect failed");
}
inline void spi_end() {
    SPI_finish();
}

// Runs `query` with parameters and checks that it did what was `expected` (an SPI_OK_ code).
inline void spi_execute(const char* query, int expected, int count = 0, Oid* types = nullptr,
                        Datum* values = nullptr, const char* nulls = nullptr) {
    int result = SPI_execute_with_args(query, count, types, values, nulls, false, 0);
    if (result != expected) {
        elog(ERROR, "\"%s\" gave %s instead of %s", query, SPI_result_code_string(result),
             SPI_result_code_string(expected));
    }
}

// A value of the current result.
inline Datum spi_value(uint64 row, int column, bool* null) {
    return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, null);
}
inline int64 spi_int64(uint64 row, int column) {
    bool null;
    Datum value = spi_value(row, column, &null);
    return null ? 0 : DatumGetInt64(value);
}

}  // namespace outbox
