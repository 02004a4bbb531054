---@meta fluxgate
-- The whole API that a plug-in sees, for LuaLS. A spec compares this file with what the runtime gives.

---An endpoint, as a live view of the gateway's shared memory: nothing can be written, and reading a name
---that does not exist raises.
---@class Backend
---@field id string stable over restarts and the same in every gateway
---@field host string as it was registered or configured
---@field port integer
---@field weight integer as configured; what pick() is given has never 0
---@field effective_weight number the weight with slow start applied: what a strategy should go by
---@field zone string "" where it has none
---@field metadata table the instance's metadata, decoded once; read it, do not change it
---@field active integer requests in flight on it, over all workers
---@field latency_ewma number seconds; decays while there is no traffic
---@field failures integer gateway failures in a row; a success sets it to 0
---@field load number as the backend reported it, 0 where it does not
---@field full boolean at its limit of active requests
---@field state string "healthy", "unproven", "suspect", "unhealthy", "ejected", "draining", …
---@field health_path string the instance's own path for probes, "" where it has none

---A request, as a view that lives as long as the callback it was given to. Using it later raises.
---@class Request
---@field method string
---@field path string in normal form, without the query
---@field query string without '?'
---@field host string
---@field client_ip string
---@field attempt integer 1 for the first
---@field ctx table yours: from the request's first callback to its last
local Request = {}

---The value of a header, nil where there is none. Names compare without case.
---@param name string
---@return string?
function Request:header(name) end

---The value of a cookie, nil where there is none. Of several with one name the first, which browsers give
---the one of the longest path (RFC 6265 §5.4), or the nth.
---@param name string
---@param nth? integer default 1
---@return string?
function Request:cookie(name, nth) end

---@class CookieOptions
---@field path? string default "/"
---@field domain? string the host that asked alone without
---@field secure? boolean
---@field http_only? boolean
---@field same_site? "Lax"|"Strict"|"None"
---@field max_age? number seconds; a session cookie without

---Adds a Set-Cookie header to the answer of the attempt that is being placed. Raises on bytes that a cookie
---may not hold.
---@param name string
---@param value string
---@param options? CookieOptions
function Request:set_cookie(name, value, options) end

---A 52-bit hash of what `key` names, the same in every worker and gateway: "client_ip", "path", "host",
---"query", "method", "header:NAME", "cookie:NAME", "query:NAME". nil where the request has no such thing.
---@param key string
---@return number?
function Request:hash(key) end

---An endpoint of the service by id, though it may not be in `backends`: draining, unproven, ejected or of
---weight 0. nil where it is unhealthy, in maintenance, gone, or was tried by this request.
---@param id string?
---@return Backend?
function Request:bound(id) end

---How an attempt ended; lives as long as the on_result that it was given to.
---@class Result
---@field status integer of the endpoint's answer, 0 where there was none
---@field failure string? a word such as "connect_refused"; nil where the endpoint answered
---@field latency number seconds from pick to response head
local Result = {}

---A header of the endpoint's answer.
---@param name string
---@return string?
function Result:header(name) end

---@class Service
---@field name string
---@field options_path string where its options stand in the YAML: what an error about an option begins with
local Service = {}

---Every endpoint of the service that is not gone, whatever its state, sorted by id. The array is the
---gateway's.
---@return Backend[]
function Service:endpoints() end

---What a strategy file's table makes. pick is needed, the rest is optional.
---@class Strategy
---@field name string?
---@field api integer? 1: the version of this contract
local Strategy = {}

---Once a service and load. Raises where an option is wrong.
---@param options table
---@param service Service
---@param previous table? what export() of the generation before gave
---@return Strategy
function Strategy.new(options, service, previous) end

---Hot. One of `backends`, or nil (and a reason) for none, or gateway.QUEUE.
---@param request Request
---@param backends Backend[] what may be picked now, sorted by id; the array is the gateway's
---@return Backend?
---@return string? reason
function Strategy:pick(request, backends) end

---Endpoints joined, left, or changed their state or weight.
---@param backends Backend[]
function Strategy:on_change(backends) end

---An attempt ended.
---@param request Request
---@param backend Backend
---@param result Result
function Strategy:on_result(request, backend, result) end

---State for the next generation: plain tables, strings, numbers and booleans.
---@return table
function Strategy:export() end

---The connection of a probe, for the function that probe() answered and while that runs. Each call waits; the
---probe's timeout ends all of it.
---@class Socket
local Socket = {}

---@param text string at most 64 KiB
---@return true? ok nil where the endpoint has closed
---@return string? why "closed"
function Socket:send(text) end

---What comes: a number of bytes, no more and no less; "line" up to a line's end, without it; nothing given:
---whatever comes first. At most 64 KiB.
---@param what? integer|"line"
---@return string? got
---@return string? why "closed"
---@return string? rest what had come before that
function Socket:receive(what) end

---Nothing more is sent or received.
function Socket:close() end

---@class Probe
---@field kind "http"|"tcp"|"grpc"|"socket"
---@field run? fun(socket: Socket): any, string? of socket: returns result.value, or nil and why not
---@field service? string of grpc: its full name; the server as a whole without
---@field method? string default "GET"
---@field path? string default "/"
---@field host? string the Host header; the endpoint's address without
---@field port? integer the endpoint's own without
---@field timeout? number seconds, default 2
---@field status? (integer|string)[] expected: 200, "200-299"; at most eight
---@field body? string|false text that the first 4 KiB should hold; false: the head is enough

---@class ProbeResult
---@field ok boolean connected (tcp), a response head came (http), SERVING (grpc), run() said so (socket)
---@field status integer of HTTP, or grpc-status; 0 where there was none
---@field latency number seconds
---@field failure string? a word such as "connect_timeout"
---@field body string its first 4 KiB
---@field detail? string more than `failure` says: "NOT_SERVING", or why run() says no
---@field value any what run() returned

---@class History
---@field rise integer good results in a row, this one not yet counted
---@field fall integer bad results in a row, this one not yet counted
---@field state string of the endpoint
---@field since number when it took that state, on the clock of gateway.now()

---What the healthy endpoints of a service did in the last window, to compare one with all.
---@class Fleet
---@field endpoints integer that may be picked or are ejected
---@field ejected integer of them
local Fleet = {}

---The success rates (0 to 1) of the endpoints that had `least` requests or more.
---@param least? integer default 1
---@return number mean
---@return number deviation the standard deviation
---@return integer hosts how many endpoints that is of
function Fleet:success_rate(least) end

---The latencies of the endpoints that had `least` requests or more.
---@param least? integer default 1
---@return number median seconds
---@return integer hosts
function Fleet:latency(least) end

---What an endpoint's requests told. observe() is called when something failed, when a window in which there
---were requests has ended, and when a trial has.
---@class Window
---@field is_new boolean a window has just ended: requests, failures and errors are of it, else 0
---@field seconds number how long a window is
---@field requests integer attempts that ended in it
---@field failures integer those that failed: refused, reset, timed out, not HTTP
---@field errors integer those that failed or were answered by a 5xx
---@field success_rate? number 1 - errors / requests; nil where there were none
---@field failures_in_row integer up to now
---@field errors_in_row integer
---@field latency number seconds: the endpoint's latency_ewma
---@field ejections integer how often it was ejected without 5 min of good time in between
---@field trial? "passed"|"error"|"failed" how the one request after an ejection went; error: a 5xx
---@field fleet Fleet

---What a health policy's table makes: probe and judge, or observe, or all three.
---@class Policy
---@field name string?
---@field api integer?
---@field window number? of observe(), in seconds; default 10
local Policy = {}

---@param options table
---@param service Service
---@return Policy
function Policy.new(options, service) end

---What to send, nil for nothing this time; a function is short for { kind = "socket", run = … }.
---@param backend Backend
---@return Probe|fun(socket: Socket)|nil
function Policy:probe(backend) end

---The verdict, nil where it stays as it is, and a reason for people.
---@param backend Backend
---@param result ProbeResult
---@param history History
---@return "healthy"|"unhealthy"|nil
---@return string? reason
function Policy:judge(backend, result, history) end

---"eject" and for how many seconds (the gateway's own rule without) and why; "restore" after a trial; nil for
---nothing. At most half of a service is ejected, and never the last endpoint.
---@param backend Backend
---@param window Window
---@return "eject"|"restore"|nil
---@return number? seconds
---@return string? reason
function Policy:observe(backend, window) end

---@class Counter
local Counter = {}

---Counts up by one; returns the value before.
---@return number
function Counter:next() end

---@return number
function Counter:get() end

---@alias OptionType "string"|"number"|"integer"|"boolean"|"duration"|"list"|"table"|"any"
---@class OptionRule
---@field type? OptionType default "any"; a duration arrives as seconds
---@field default? any of a duration also a text such as "5s"
---@field required? boolean
---@field min? number
---@field max? number
---@field one_of? any[]
---@field check? fun(value: any): any, string? returns the value to use, or nil and what was expected

---@class gateway
---@field name string "fluxgate"
---@field version string
---@field zone string where this gateway runs, as its configuration says; "" where it does not
---@field api integer 1
---@field QUEUE any pick() answers it to let the request wait
gateway = {}

---Seconds of a monotonic clock.
---@return number
function gateway.now() end

---A number of 0 ≤ x < 1; with n a whole number from 1 to n.
---@param n? integer
---@return number
function gateway.random(n) end

---A counter that all workers share and that outlives reloads. Make it in new(), and no more than 64 there.
---@param name string 1 to 200 bytes; names that begin with "fluxgate/" are fluxgate's own and raise
---@return Counter
function gateway.counter(name) end

---Another strategy for the service whose new() runs. Its on_change is called before its maker's.
---@param name string
---@param options? table
---@return Strategy
function gateway.strategy(name, options) end

---A line in the gateway's log; at most a hundred a second.
---@param level string "debug", "info", "warn", "error"; or the message, where it is the only argument
---@param message? any
function gateway.log(level, message) end

---@param data string
---@return string digest 32 bytes
function gateway.sha256(data) end

---@param key string
---@param data string
---@return string digest 32 bytes
function gateway.hmac_sha256(key, data) end

---@param bytes string
---@return string
function gateway.base64url_encode(bytes) end

---@param text string
---@return string? bytes
---@return string? message
function gateway.base64url_decode(text) end

---Escapes all but letters, digits and - . _ ~ as %XX (RFC 3986): for a path's segment or a query's part.
---@param text string
---@return string
function gateway.url_encode(text) end

---%XX → its byte. What is no escape stays; "+" is a plus.
---@param text string
---@return string
function gateway.url_decode(text) end

---Reads a query ("a=1&b=x+y", also a form's body): name → its first value, and all of them in order.
---@param query string
---@return table<string, string> first
---@return string[][] all { name, value } each
function gateway.query_decode(query) end

---Writes a query, escaped and sorted by name.
---@param values table<string, string|number|boolean|(string|number|boolean)[]>
---@return string
function gateway.query_encode(values) end

---"1m30s" → 90. Raises where it is no duration.
---@param value string|number
---@return number seconds
function gateway.duration(value) end

---Checks options against a schema and fills in defaults; raises with the option's place in the YAML. In a
---policy that probes, the schema need not name interval, fast_interval, timeout, rise, fall and jitter.
---@param service Service|FilterOwner
---@param options table
---@param schema table<string, OptionRule>
---@return table
function gateway.options(service, options, schema) end

---A dictionary that all workers share, and that reloads keep: what one writes, the others read at once. It
---has 16 MiB, room for some 120,000 short entries; entries whose time is over make room, nothing else is
---thrown out: then a write is `nil, "full"`. Keys are 1 to 256 bytes. Any call may answer `nil, "busy"` where
---another process held the key's part of it for 100 ms, since it was stopped or starved.
---@class Dict
local Dict = {}

---@param key string
---@return string|number|boolean|nil value
---@return string? why "busy"
function Dict:get(key) end

---@param key string
---@param value string|number|boolean a string of at most 64 KiB
---@param ttl? number seconds; for ever without
---@return true? done
---@return string? why "full", "busy"
function Dict:set(key, value, ttl) end

---As set, where there is no such key yet.
---@param key string
---@param value string|number|boolean
---@param ttl? number seconds
---@return boolean? done false: there was one
---@return string? why "full", "busy"
function Dict:add(key, value, ttl) end

---Adds to a number, exactly over all workers. One that is not there begins as `initial` and lives for `ttl`.
---@param key string
---@param by number
---@param initial? number without it a key must be there
---@param ttl? number seconds, of a key that this call makes
---@return number? sum
---@return string? why "not found", "not a number", "full", "busy"
function Dict:incr(key, by, initial, ttl) end

---@param key string
---@return true? done also where there was none
---@return string? why "busy"
function Dict:delete(key) end

---@param key string
---@return number? seconds until its end; nil where it has none, or where there is no such key
---@return string? why "busy"
function Dict:ttl(key) end

---A bucket of `burst` tokens that fills by `rate` a second, exact over all workers, gives `cost` of them. Its
---entry lives until it would be full again.
---@param key string
---@param rate number
---@param burst number
---@param cost? number default 1
---@return boolean? taken
---@return number|string rest what is left; of false the seconds until it is enough; of nil "full" …
function Dict:take(key, rate, burst, cost) end

---A counter or gauge of /metrics.
---@class Metric
local Metric = {}

---@param n number finite; of a counter not below 0
---@param ... string|number|boolean one value for each label
function Metric:add(n, ...) end

---A gauge's value: the last that any worker set.
---@param n number finite
---@param ... string|number|boolean
function Metric:set(n, ...) end

---A histogram of /metrics.
---@class Histogram
local Histogram = {}

---@param n number finite
---@param ... string|number|boolean one value for each label
function Histogram:observe(n, ...) end

---A key that verifies signatures.
---@class PublicKey
local PublicKey = {}

---False for every algorithm but the key's own: RS256 of RSA, ES256 of P-256, HS256 of a secret.
---@param algorithm string
---@param data string
---@param signature string bytes; of ES256 the 64 of RFC 7518 section 3.4
---@return boolean
function PublicKey:verify(algorithm, data, signature) end

---A set of addresses.
---@class IpSet
local IpSet = {}

---@param ip string
---@return boolean false also for what is no address
function IpSet:has(ip) end

---The shared dictionary of this name, at most limits.shared_dicts (32) of them. Make it in new().
---@param name string 1 to 64 bytes; names that begin with "fluxgate/" are fluxgate's own and raise
---@return Dict
function gateway.dict(name) end

---A metric of yours in /metrics, one sum over all workers, kept over reloads. A metric holds 1,000 series;
---what comes later is counted in the one whose labels are all "other". Names of fluxgate's own are refused,
---and so is one name with two kinds or label lists. Make it in new().
---@param kind "counter"|"gauge"
---@param name string
---@param help string
---@param labels? string[] at most 8 names
---@return Metric
function gateway.metric(kind, name, help, labels) end

---A histogram of yours in /metrics: NAME_bucket, how many observations are no greater than each bound,
---NAME_sum and NAME_count, exact over all workers, kept over reloads. What gateway.metric says of names and
---labels holds here too, and each bound counts as a series. The bounds are by default 0.005, 0.01, 0.025,
---0.05, 0.1, 0.25, 0.5, 1, 2.5, 5 and 10. Make it in new().
---@param name string
---@param help string
---@param labels? string[] at most 8 names, none of them "le"
---@param buckets? number[] 1 to 32 bounds that go up, without +Inf
---@return Histogram
function gateway.histogram(name, help, labels, buckets) end

---Seconds since 1970, of the wall clock.
---@return number
function gateway.time() end

---@param bytes string
---@return string text RFC 4648 section 4, with padding
function gateway.base64_encode(bytes) end

---@param text string
---@return string? bytes nil where it is no such text: blanks, missing padding, last bits that are not zero
---@return string? message
function gateway.base64_decode(text) end

---@param bytes string
---@return string digits two lower-case ones a byte
function gateway.hex(bytes) end

---@param n integer 0 to 65536
---@return string bytes that nobody can guess
function gateway.random_bytes(n) end

---@return string uuid of version 4
function gateway.uuid() end

---Compares in a time that says nothing of where they differ.
---@param a string
---@param b string
---@return boolean
function gateway.equal(a, b) end

---A key from PEM text (a public key or a certificate) or from a JWK table: RSA of 2048 to 8192 bits, P-256,
---or a secret ("oct") of 32 bytes or more. nil where it is none of these, or where the JWK's `use` or `alg`
---says that it is for something else.
---@param source string|table
---@return PublicKey?
---@return string? message
function gateway.public_key(source) end

---Addresses and CIDRs of both families; raises at one that is none. An IPv4 address that is mapped into IPv6
---is that IPv4 address.
---@param list string[]
---@return IpSet
function gateway.ip_set(list) end
---@class FetchOptions
---@field method? string default "GET"
---@field headers? table<string, string|number|string[]>
---@field body? string
---@field timeout? number seconds for all of it, default 5
---@field max_body? integer bytes of the answer, default 1 MiB

---@class FetchAnswer
---@field status integer
---@field headers table<string, string|string[]> names in lower case; lines of one field joined, but
---several of set-cookie as a list
---@field body string

---Asks an HTTP server and waits: http://…, https://… or service://NAME/path, which picks an endpoint. nil and
---"reason: detail" where no answer came. In on_request, on_response, spawned functions and timers.
---@param url string
---@param options? FetchOptions
---@return FetchAnswer?
---@return string? why
function gateway.fetch(url, options) end

---Waits, where fetch may.
---@param seconds number
function gateway.sleep(seconds) end

---Runs fn(...) beside the request, which does not wait for it. At most 1024 at once: else nil and why.
---@param fn function
---@param ... any at most 16
---@return boolean?
---@return string? why
function gateway.spawn(fn, ...) end

---@class EveryOptions
---@field once? "worker"|"gateway" "worker" (default): each worker runs it; "gateway": one of them does

---Runs fn again and again, first after `seconds` (± 10 %), never twice at once. Call it in new().
---@param seconds number
---@param fn function
---@param options? EveryOptions
function gateway.every(seconds, fn, options) end

-- Filters -----------------------------------------------------------------------------------------------

---The route or service that lists a filter.
---@class FilterOwner
---@field name string
---@field options_path string where the filter's options stand in the YAML
local FilterOwner = {}

---What a filter file's table makes. At least one of the callbacks is needed.
---@class Filter
---@field name string?
---@field api integer? 1: the version of this contract
local Filter = {}

---Once for each use in a route or service, and load. Raises where an option is wrong.
---@param options table
---@param owner FilterOwner
---@return Filter
function Filter.new(options, owner) end

---Before an endpoint is picked. May wait. Returns nothing: to refuse is request:answer's, and whatever is
---returned is taken for a mistake, which fails the request.
---@param request FilterRequest
function Filter:on_request(request) end

---The head of the answer is known, and nothing of it was sent: an endpoint's, a filter's or a route's, or the
---gateway's own where no endpoint answered. May wait.
---@param request FilterRequest
---@param response Response
function Filter:on_response(request, response) end

---The request is over. May not wait.
---@param request LogRequest
---@param response LogResponse
function Filter:on_log(request, response) end

---A request as filters have it: what pick() has, and more. Header names compare without case; fields that
---frame a message, Host and hop-by-hop fields belong to the gateway. What may not be raises. set_cookie is
---pick()'s alone; a filter sets a cookie by response:add_header("Set-Cookie", …).
---@class FilterRequest : Request
---@field id string its X-Request-Id
---@field scheme string "http" or "https"
---@field route string the route's name
---@field service string the service's name, "" where the route answers by itself
local FilterRequest = {}

---Every field: name in lower case → value; several lines of one field are joined by ", ", Cookie's by "; ".
---@return table<string, string>
function FilterRequest:headers() end

---@param name string
---@param value string|number
function FilterRequest:set_header(name, value) end

---@param name string
---@param value string|number
function FilterRequest:add_header(name, value) end

---@param name string
function FilterRequest:remove_header(name) end

---In on_request, as are the next six. Brought to normal form; raises where a client's path would get 400.
---@param path string
function FilterRequest:set_path(path) end

---@param query string without "?"
function FilterRequest:set_query(query) end

---@param host string host[:port]
function FilterRequest:set_host(host) end

---@param method string
function FilterRequest:set_method(method) end

---Sends the request to another service. That service's filters run too.
---@param name string
function FilterRequest:set_service(name) end

---Goes on as if another route had matched. That route's filters run too.
---@param name string
function FilterRequest:set_route(name) end

---@param text string at most 16 MiB
function FilterRequest:set_body(text) end

---The whole body; waits for it. nil and "too large" past `max`, nil and "cut" where the client left.
---@param max? integer bytes, default 1 MiB, at most 16 MiB
---@return string?
---@return string? why
function FilterRequest:body(max) end

---Answers in the endpoint's place: no further filter's on_request runs.
---@param status integer 200 to 599
---@param body? string
---@param headers? table<string, string|number|string[]>
function FilterRequest:answer(status, body, headers) end

---@class Response
---@field status integer
---@field has_body boolean false for HEAD, 204 and 304
---@field backend Backend? nil for an answer that no endpoint gave
---@field reason string? why the gateway answers itself, such as "connect_refused"; nil for every other answer
local Response = {}

---@param name string
---@return string?
function Response:header(name) end

---@return table<string, string>
function Response:headers() end

---@param status integer 200 to 599
function Response:set_status(status) end

---@param name string
---@param value string|number
function Response:set_header(name, value) end

---@param name string
---@param value string|number
function Response:add_header(name, value) end

---@param name string
function Response:remove_header(name) end

---Another answer in the place of this one.
---@param status integer
---@param body? string
---@param headers? table<string, string|number|string[]>
function Response:answer(status, body, headers) end

---Each chunk of the body goes through `stage`, which returns what takes its place; nil: it stays. It may not
---wait; an error in it cuts the body.
---@param stage fun(chunk: string, is_last: boolean): string?
function Response:on_body(stage) end

---Compresses the body. False where it has none, is partial or encoded, or may not be changed.
---@param encoding "gzip"|"zstd"|"deflate"
---@param level? integer default 6, 3 for zstd
---@return boolean
function Response:compress(encoding, level) end

---A request that is over, for on_log: flat. Its headers are gone.
---@class LogRequest
---@field method string
---@field path string
---@field query string
---@field host string
---@field client_ip string
---@field id string
---@field route string
---@field service string
---@field ctx table the strings, numbers and booleans of request.ctx

---@class LogResponse
---@field status integer
---@field bytes number sent
---@field duration number seconds
---@field reason string? why it failed, such as "filter_denied"
---@field endpoint string? id of the endpoint that was tried last; nil where none was
---@field attempts integer how many were tried
