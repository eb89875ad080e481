// outbox-file: appends the messages of one database to a file, one line of JSON each. The relay
// starts it.
#include "sink/common/program.hpp"
#include "sink/file/file_sink.hpp"

int main(int argc, char** argv) {
    outbox::sink::run_program(argc, argv,
                              {"outbox-file", "", [](auto& reports) {
                                   return std::make_unique<outbox::file::FileSink>(reports);
                               }});
}
