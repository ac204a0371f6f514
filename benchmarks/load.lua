-- Sends the requests of a file in turn, each made once beforehand, so that the load costs wrk nothing but sending.
-- Arguments: the file, one request a line: target <tab> Host <tab> Cookie <tab> request id or nothing.
local prepared, at = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local target, host, cookie, id = line:match("^([^\t]+)\t([^\t]+)\t([^\t]*)\t(.*)$")
    local headers = {
      ["Host"] = host,
      ["Cookie"] = cookie,
      ["User-Agent"] = "legacy-app/1.0",
      ["Accept"] = "application/json",
    }
    if id ~= "" then headers["X-Request-Id"] = id end
    prepared[#prepared + 1] = wrk.format("GET", target, headers)
  end
end

function request()
  at = at % #prepared + 1
  return prepared[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "microseconds": %d, "bytes": %d, "p50": %d, "p99": %d, "max": %d, ' ..
    '"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
