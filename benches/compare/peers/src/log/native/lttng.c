/* A tracepoint for each line: `lttng BLOCK COUNT`. Prints the monotonic time at which it began, in ns. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "lttng.h"

#include "lines.h"

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    read_block(argv[1]);
    const uint64_t count = strtoull(argv[2], NULL, 10);
    const uint64_t start = now_ns();
    for (uint64_t number = 0; number < count; number++) {
        lttng_ust_tracepoint(peers, line, message_of(number), MESSAGE_BYTES);
    }
    printf("%llu\n", (unsigned long long)start);
    return 0;
}
