/* spdlog to one file: `spdlog sync|async BLOCK COUNT FILE`. Prints the ns from the first line until all is in the file. */
#include "lines.h"
#include <cstring>
#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

int main(int argc, char **argv) {
    if (argc != 5) {
        return 2;
    }
    read_block(argv[2]);
    const uint64_t count = strtoull(argv[3], nullptr, 10);
    /* The async factory waits where its queue of 8,192 messages is full: nothing is lost. */
    auto logger = strcmp(argv[1], "async") == 0 ? spdlog::basic_logger_mt<spdlog::async_factory>("out", argv[4])
                                                : spdlog::basic_logger_mt("out", argv[4]);
    const uint64_t start = now_ns();
    for (uint64_t number = 0; number < count; number++) {
        logger->info("{}", spdlog::string_view_t(message_of(number), MESSAGE_BYTES));
    }
    logger.reset();
    /* Ends the thread of the async logger when its queue is empty, and closes the file. */
    spdlog::shutdown();
    say_and_stay(now_ns() - start);
}
