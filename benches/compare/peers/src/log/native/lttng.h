#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER peers
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./lttng.h"

#if !defined(PEERS_LTTNG_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define PEERS_LTTNG_H
#include <lttng/tracepoint.h>
LTTNG_UST_TRACEPOINT_EVENT(peers, line, LTTNG_UST_TP_ARGS(const char *, message, size_t, bytes),
                           LTTNG_UST_TP_FIELDS(lttng_ust_field_sequence_text(char, message, message, size_t, bytes)))
#endif

#include <lttng/tracepoint-event.h>
