---@meta fluxgate.testkit
-- The test kit for LuaLS: what `require "fluxgate.testkit"` returns. A spec compares this file with it.

---Drives plug-ins without a gateway, with the gateway's own loader and sandbox; endpoints, requests, clock
---and dice are fakes, so that no spec waits or flickers.
---@class kit
---@field QUEUE any what gateway.QUEUE is
---@field gateway gateway as plug-ins have it, for what a spec has to compute: a signature, the time
---@field logs { level: string, message: string }[] what the plug-ins logged since kit.seed
local kit = {}

---Starts afresh: the clock at 1000 s, no counters, no log lines, dice from `seed`. Call it in before_each.
---@param seed? integer default 1
function kit.seed(seed) end

---@return number seconds of the kit's clock, as gateway.now() gives them
function kit.now() end

---Moves the clock on; timers that fall due run.
---@param duration string|number "10s", or seconds
---@return number now
function kit.advance(duration) end

---The gateway's zone, for plug-ins that are made after it: gateway.zone, which is "" without.
---@param name string
function kit.zone(name) end

---A directory that `require` and names of plug-ins are looked up in, before the shipped ones.
---@param dir string
function kit.path(dir) end

---An instance of a strategy, made as for a service named "test". Raises what new() raises.
---@param name string of a shipped one, or a path that ends in .lua
---@param options? table
---@param previous? table what export() of the generation before gave
---@return Strategy
function kit.strategy(name, options, previous) end

---An instance of a health policy. new() gets the common options too, with their defaults, as in the gateway.
---@param name string
---@param options? table
---@return Policy
function kit.policy(name, options) end

---An instance of a filter, made as for a route named "test".
---@param name string
---@param options? table
---@return Filter
function kit.filter(name, options) end

---@class KitBackend
---@field id? string default "backend-1", …
---@field host? string
---@field port? integer
---@field weight? integer default 1
---@field effective_weight? number default the weight
---@field zone? string
---@field metadata? table
---@field state? string default "healthy"
---@field active? integer
---@field latency_ewma? number
---@field failures? integer
---@field load? number
---@field full? boolean
---@field health_path? string

---Endpoints as pick() gets them: sorted by id, without those that may not be picked. `fleet["id"]` finds any.
---@param rows KitBackend[]
---@return Backend[]
function kit.backends(rows) end

---Changes an endpoint; the strategy learns of it before its next pick.
---@param backends Backend[]
---@param id string
---@param changes KitBackend
function kit.set(backends, id, changes) end

---@class KitRequest
---@field method? string default "GET"
---@field path? string default "/"
---@field query? string
---@field host? string
---@field client_ip? string
---@field headers? table<string, string>
---@field cookies? table<string, string|string[]>
---@field body? string
---@field body_cut? boolean the client left in the middle of it
---@field attempt? integer
---@field tried? Backend[] endpoints of earlier attempts
---@field ctx? table
---@field id? string
---@field scheme? string
---@field route? string default "test", as is service
---@field service? string

---@param fields? KitRequest
---@return Request
function kit.request(fields) end

---pick() as the gateway calls it: without what the request tried, and with its answer checked. Raises where
---the gateway would fall back.
---@param strategy Strategy
---@param request Request
---@param backends Backend[]
---@return Backend?
---@return string? reason
function kit.pick(strategy, request, backends) end

---The cookies that request:set_cookie was called with.
---@param request Request
---@return { name: string, value: string, options: CookieOptions }[]
function kit.cookies(request) end

---A request is placed on `backend`.
---@param backend Backend
---@return Backend
function kit.begin(backend) end

---It has left it.
---@param backend Backend
---@return Backend
function kit.finish(backend) end

---A result for on_result.
---@param fields? { status?: integer, latency?: number, failure?: string, headers?: table<string, string> }
---@return Result
function kit.result(fields) end

---What probe() answers, after the gateway's own checks.
---@param policy Policy
---@param backend Backend
---@return Probe
function kit.probe(policy, backend) end

---Feeds results to judge() one after the other, counting as the gateway counts.
---@param policy Policy
---@param backend Backend
---@param results { ok?: boolean, status?: integer, latency?: number, failure?: string, body?: string }[]
---@param first_state? string default "unproven"
---@return string[] states the endpoint's state after each
---@return (string|false)[] reasons of each verdict
function kit.judge(policy, backend, results, first_state) end

---@class KitOutcome
---@field forwarded? table the request as the endpoint saw it; nil where it went nowhere
---@field status integer
---@field headers table<string, string>
---@field lines string[][] each field of the answer, { name, value }
---@field body string
---@field compressed? { encoding: string, level?: integer }
---@field reason? string of the gateway's closed list, such as "filter_error"
---@field errors string[]

---What becomes of a request that passes filters: one, or a list whose items may be { filter, on_error =
---"skip" }. The endpoint is { status, headers, body or chunks }, or { failure = "connect_refused" } (any
---reason of the gateway's list, which response.reason then tells), or a function of the request that it sees.
---@param filters Filter|Filter[]
---@param request KitRequest|Request
---@param endpoint? table|fun(request: table): table
---@return KitOutcome
function kit.run(filters, request, endpoint) end

---Answers gateway.fetch of every URL that the Lua pattern finds itself in; the newest rule counts.
---@param pattern string
---@param answer table|fun(url: string, options: table): table { status, headers, body, delay } or { failure }
function kit.on_fetch(pattern, answer) end

---What was fetched, in order.
---@return { url: string, method: string, headers: table, body?: string }[]
function kit.fetched() end

---The shared dictionary `name`, as filters see it; `max` entries make it full.
---@param name string
---@param max? integer
---@return table
function kit.dict(name, max) end

---What gateway.metric and gateway.histogram counted: metric name → label values joined by "," → sum; of a
---histogram { count, sum, buckets }, where buckets[bound] is how many are no greater.
---@return table<string, table<string, number|table>>
function kit.metrics() end

---A public key: what gateway.public_key(text), or a JWK with this kid, gives.
---@param text_or_kid string
---@param algorithm string which it verifies
---@param sign fun(data: string): string the right signature
function kit.key(text_or_kid, algorithm, sign) end

---Runs the function that probe() answers against `server`: a function of each text that is sent (of nil
---first, for a greeting), which returns what comes back, nil for nothing, false to close.
---@param policy Policy
---@param backend Backend
---@param server fun(text: string?): string|false|nil
---@return ProbeResult result as judge() gets it, and in `sent` a list of what was sent
function kit.talk(policy, backend, server) end

---@class KitWindow what an endpoint's requests told; with `requests`, in a window that has just ended
---@field requests? integer
---@field failures? integer
---@field errors? integer those that failed among them; default failures
---@field latency? number default the endpoint's latency_ewma
---@field failures_in_row? integer
---@field errors_in_row? integer default failures_in_row
---@field trial? "passed"|"error"|"failed" of an ejected one

---Lets a policy observe, and ejects and restores as the gateway does: at most half, never the last.
---@param policy Policy
---@param backends Backend[]
---@param rows table<string, KitWindow> by the endpoint's id
---@return table<string, { action: "eject"|"restore", seconds: number, reason: string? }> done by id
function kit.observe(policy, backends, rows) end

return kit
