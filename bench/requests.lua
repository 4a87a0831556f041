-- wrk's script for every route. Arguments: a file with one request per line (method, path, cookie and body, separated
-- by tabs), and "once" if none of them may be sent again.

local requests, sent, once = {}, 0, false

function init(args)
  once = args[2] == "once"
  for line in io.lines(args[1]) do
    local method, path, cookie, body = line:match("([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)")
    local headers = { Host = wrk.headers["Host"] }
    if cookie ~= "" then headers["Cookie"] = cookie end
    if body ~= "" then headers["Content-Type"] = "application/json" else body = nil end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end

function request()
  if sent == #requests then
    if once then
      io.stderr:write("all " .. sent .. " requests have been sent\n")
      os.exit(1)
    end
    sent = 0
  end
  sent = sent + 1
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "bad": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
