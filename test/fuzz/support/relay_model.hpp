// The relay's half of a conversation without the server around it: what src/worker/reports.cpp asks
// of every report, with the same functions. Runs in the fuzz targets.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/reports.hpp"

namespace outbox::fuzz {

class RelayModel {
  public:
    // A model's place in memory is used by one model at a time: they are large, and short-lived.
    explicit RelayModel(size_t place = 0);
    static constexpr size_t kPlaces = 3;

    // Takes bytes as they would come from the socket, at most `chunk` at once. False: the sink
    // broke the protocol, and nothing more is taken.
    bool receive(std::string_view bytes, size_t chunk);

    // What was understood, a line for each report.
    const std::vector<std::string>& understood() const { return understood_; }
    const std::set<uint64_t>& answered() const { return answered_; }

  private:
    bool handle(const protocol::Report& report);
    bool handle_copy(const protocol::Report& report);
    bool answer(uint64_t number);
    std::string plain(protocol::Bytes text);

    protocol::ReportBuffer buffer_;
    bool broken_ = false;
    bool greeted_ = false;
    std::set<uint64_t> answered_;
    std::vector<std::string> understood_;
};

}  // namespace outbox::fuzz
