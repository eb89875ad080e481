// The text of java.util.Properties, as Debezium's extensions write a tracing context. Session's
// backend.
//
// The format is that of Properties.load(): lines that end with \n, \r or both, and go on after a
// backslash; comments begin with # or !; a name ends with =, : or white space; escapes are \t, \n,
// \r, \f, \uXXXX, and any other character for itself.
#include "debezium/properties.hpp"

namespace outbox::debezium {

namespace {

bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\f';
}
bool is_end_of_line(char c) {
    return c == '\n' || c == '\r';
}

class Reader {
  public:
    Reader(const char* text, size_t length) : at_(text), end_(text + length) {}

    // False: there is no further property.
    bool next(StringInfo name, StringInfo value) {
        resetStringInfo(name);
        resetStringInfo(value);
        for (;;) {
            while (at_ < end_ && (is_blank(*at_) || is_end_of_line(*at_)))
                ++at_;
            if (at_ == end_) return false;
            if (*at_ != '#' && *at_ != '!') break;
            while (at_ < end_ && !is_end_of_line(*at_))
                ++at_;
        }
        read_until_separator(name);
        skip_blanks();
        if (at_ < end_ && (*at_ == '=' || *at_ == ':')) {
            ++at_;
            skip_blanks();
        }
        while (at_ < end_ && !is_end_of_line(*at_))
            read_character(value);
        return true;
    }

  private:
    void read_until_separator(StringInfo name) {
        while (at_ < end_ && !is_end_of_line(*at_) && !is_blank(*at_) && *at_ != '=' && *at_ != ':')
            read_character(name);
    }

    void skip_blanks() {
        for (;;) {
            while (at_ < end_ && is_blank(*at_))
                ++at_;
            if (!skip_continuation()) return;
        }
    }

    // A backslash at the end of a line, and the blanks that the next one begins with.
    bool skip_continuation() {
        if (end_ - at_ < 2 || at_[0] != '\\' || !is_end_of_line(at_[1])) return false;
        at_ += at_[1] == '\r' && end_ - at_ > 2 && at_[2] == '\n' ? 3 : 2;
        while (at_ < end_ && is_blank(*at_))
            ++at_;
        return true;
    }

    void read_character(StringInfo out) {
        if (skip_continuation()) return;
        if (*at_ != '\\' || end_ - at_ < 2) {
            appendStringInfoChar(out, *at_++);
            return;
        }
        char escaped = at_[1];
        at_ += 2;
        const char* const kNames = "tnrf";
        const char* const kMeanings = "\t\n\r\f";
        if (escaped == 'u') {
            read_code_point(out);
        } else if (const char* known = strchr(kNames, escaped); known && escaped) {
            appendStringInfoChar(out, kMeanings[known - kNames]);
        } else {
            appendStringInfoChar(out, escaped);
        }
    }

    void read_code_point(StringInfo out) {
        pg_wchar code = read_unit();
        bool pair =
            code >= 0xd800 && code < 0xdc00 && end_ - at_ >= 6 && at_[0] == '\\' && at_[1] == 'u';
        if (pair) {
            at_ += 2;
            code = 0x10000 + ((code & 0x3ff) << 10) + (read_unit() & 0x3ff);
        }
        unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN];
        (void)unicode_to_utf8(code, utf8);
        appendBinaryStringInfo(out, reinterpret_cast<const char*>(utf8), pg_utf_mblen(utf8));
    }

    pg_wchar read_unit() {
        char digits[5] = {};
        for (int i = 0; i < 4 && at_ < end_; ++i)
            digits[i] = *at_++;
        return static_cast<pg_wchar>(strtoul(digits, nullptr, 16));
    }

    const char* at_;
    const char* end_;
};

// version-trace_id-parent_id-flags: W3C Trace Context, 3.2.
bool is_traceparent(const char* text, size_t length) {
    if (length < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
    return strspn(text, "0123456789abcdef-") >= 55;
}

}  // namespace

const char* property(const char* text, size_t length, const char* name) {
    const char* copy = pnstrdup(text, length);
    if (is_traceparent(copy, length)) return strcmp(name, "traceparent") == 0 ? copy : nullptr;
    StringInfoData found;
    StringInfoData value;
    initStringInfo(&found);
    initStringInfo(&value);
    const char* last = nullptr;
    Reader reader(copy, length);
    while (reader.next(&found, &value)) {
        if (strcmp(found.data, name) == 0) last = pstrdup(value.data);
    }
    return last;
}

}  // namespace outbox::debezium
