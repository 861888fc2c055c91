/* The lines of the comparison in C: block of messages from a file, numbers put in as they go. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE_BYTES = 86, BLOCK_LINES = 8192, NUMBER_BYTES = 10 };

static char block[BLOCK_LINES * MESSAGE_BYTES];

static void read_block(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fread(block, 1, sizeof block, file) != sizeof block) {
        perror(path);
        exit(1);
    }
    fclose(file);
}

static const char *message_of(uint64_t number) {
    char *message = block + number % BLOCK_LINES * MESSAGE_BYTES;
    for (int at = NUMBER_BYTES - 1; at >= 0; at--) {
        message[at] = (char)('0' + number % 10);
        number /= 10;
    }
    return message;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Says `figure`, and stays until whoever reads it has seen how much memory we have. */
static void say_and_stay(uint64_t figure) {
    char byte;
    printf("%llu\n", (unsigned long long)figure);
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
}
