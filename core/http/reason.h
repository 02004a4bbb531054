/* core/http/reason.h: why a request failed: one word of a closed list, the same in log, metrics, admin and
 * explain. */
#ifndef FLUXGATE_HTTP_REASON_H
#define FLUXGATE_HTTP_REASON_H

/* name, word, status for the client (0: none can be sent or it is not fixed), sentence for the body */
#define REASONS(X)                                                                                           \
    X(NONE, "-", 0, "")                                                                                      \
    X(NO_ROUTE, "no_route", 404, "no route matches this request")                                            \
    X(NO_ENDPOINTS, "no_endpoints", 503, "the service has no endpoint for this request")                     \
    X(ALL_UNHEALTHY, "all_unhealthy", 503, "no endpoint of the service is healthy")                          \
    X(ALL_FULL, "all_full", 503, "every endpoint of the service is at its limit")                            \
    X(QUEUE_TIMEOUT, "queue_timeout", 503, "the request waited too long for a free endpoint")                \
    X(CONNECT_REFUSED, "connect_refused", 502, "the endpoint refused the connection")                        \
    X(CONNECT_TIMEOUT, "connect_timeout", 504, "the endpoint did not accept the connection in time")         \
    X(TLS_ERROR, "tls_error", 502, "the TLS handshake with the endpoint failed")                             \
    X(RESET_BEFORE_HEADERS, "reset_before_headers", 502,                                                     \
        "the endpoint closed the connection before it answered")                                             \
    X(RESET_AFTER_HEADERS, "reset_after_headers", 0, "the endpoint closed the connection inside its answer") \
    X(BAD_RESPONSE, "bad_response", 502, "the endpoint's answer is not valid HTTP")                          \
    X(RESPONSE_TIMEOUT, "response_timeout", 504, "the endpoint did not answer in time")                      \
    X(STREAM_IDLE, "stream_idle", 0, "nothing moved for too long")                                           \
    X(CLIENT_GONE, "client_gone", 499, "the client went away")                                               \
    X(CLIENT_TIMEOUT, "client_timeout", 408, "the client did not send its request in time")                  \
    X(BAD_REQUEST, "bad_request", 400, "the request is not valid HTTP")                                      \
    X(LIMIT, "limit", 0, "a configured limit was passed")                                                    \
    X(FILTER_DENIED, "filter_denied", 403, "a filter refused the request")                                   \
    X(FILTER_ERROR, "filter_error", 500, "a filter failed")                                                  \
    X(SCRIPT_ERROR, "script_error", 503, "the strategy failed")                                              \
    X(SCRIPT_TIMEOUT, "script_timeout", 503, "the strategy ran too long")                                    \
    X(DRAINING, "draining", 503, "the gateway is shutting down")                                             \
    X(SHED, "shed", 503, "the gateway is out of resources")

#define X(name, word, status, text) REASON_##name,
enum reason { REASONS(X) REASON_COUNT };
#undef X

const char *reason_word(enum reason reason);     /* "connect_refused" */
int reason_status(enum reason reason);           /* 502; 0 where the caller knows better */
const char *reason_sentence(enum reason reason); /* for the body and people */

#endif
