/* One sender: a tracepoint an event. `sender PAYLOAD_BYTES EVENTS INDEX BURST PAUSE_NS`; BURST 0: all at once.
 * Speaks to its parent as the other senders do (`run.rs`). */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "event.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORDS_MAX = 128, LINE_BYTES = 256 };

static uint64_t words[WORDS_MAX];

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void wait_for_line(void) {
    char line[LINE_BYTES];
    if (!fgets(line, sizeof line, stdin)) {
        exit(1);
    }
}

static uint64_t memory_bytes(void) {
    char line[LINE_BYTES];
    uint64_t kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kib = strtoull(line + 6, NULL, 10);
        }
    }
    if (status) {
        fclose(status);
    }
    return kib * 1024;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        return 2;
    }
    const size_t count = strtoull(argv[1], NULL, 10) / sizeof *words;
    const uint64_t events = strtoull(argv[2], NULL, 10);
    const uint64_t burst = strtoull(argv[4], NULL, 10);
    const uint64_t pause_ns = strtoull(argv[5], NULL, 10);
    const uint64_t step = burst ? burst : events;
    uint64_t *times_ns = calloc(events / step + 1, sizeof *times_ns);
    size_t times = 0;
    if (!times_ns || count > WORDS_MAX) {
        return 2;
    }
    memset(words, 7, sizeof words);
    words[1] = 0; /* Nobody receives it in time: no stamp. */
    words[2] = strtoull(argv[3], NULL, 10);

    puts("\"Ready\"");
    fflush(stdout);
    wait_for_line(); /* go */
    const uint64_t cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    const uint64_t started_ns = now_ns(CLOCK_REALTIME);
    for (uint64_t number = 0; number < events;) {
        const uint64_t burst_ns = now_ns(CLOCK_MONOTONIC);
        const uint64_t last = number + step < events ? number + step : events;
        while (number < last) {
            words[0] = ++number;
            lttng_ust_tracepoint(peers, event, words, count);
        }
        const uint64_t done_ns = now_ns(CLOCK_MONOTONIC);
        times_ns[times++] = done_ns - burst_ns;
        while (burst && now_ns(CLOCK_MONOTONIC) - done_ns < pause_ns) {
            sched_yield();
        }
    }
    const uint64_t ended_ns = now_ns(CLOCK_REALTIME);
    const uint64_t used_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;

    printf("{\"Sender\":{\"started_ns\":%" PRIu64 ",\"ended_ns\":%" PRIu64 ",\"times_ns\":[", started_ns, ended_ns);
    for (size_t at = 0; at < times; at++) {
        printf("%s%" PRIu64, at ? "," : "", times_ns[at]);
    }
    puts("]}}");
    fflush(stdout);
    wait_for_line(); /* sent */
    wait_for_line(); /* end */
    printf("{\"Used\":{\"cpu_ns\":%" PRIu64 ",\"memory_bytes\":%" PRIu64 "}}\n", used_ns, memory_bytes());
    return 0;
}
