/* The one tracepoint: an event of the comparison, as numbers. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER peers
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./event.h"

#if !defined(PEERS_EVENT_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define PEERS_EVENT_H
#include <lttng/tracepoint.h>
#include <stddef.h>
#include <stdint.h>
LTTNG_UST_TRACEPOINT_EVENT(peers, event, LTTNG_UST_TP_ARGS(const uint64_t *, words, size_t, count),
                           LTTNG_UST_TP_FIELDS(lttng_ust_field_sequence(uint64_t, words, words, size_t, count)))
#endif

#include <lttng/tracepoint-event.h>
