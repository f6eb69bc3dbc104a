-- The requests of a load, and what became of them: wrk -s load.lua URL -- KIND SEED [API-KEY]
--
--   new      payments with keys at random (UUIDv4): the worst that an index can be given
--   ordered  payments with keys in order of time, as UUIDv7 are
--   replay   the keys that were stored before, at random
--   mix      90 new, 9 replays, 1 key reused for another payment, of a hundred
--   storm    one key for all clients, another one each second

local format, random = string.format, math.random
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  kind, seed, sent = arguments[1], tonumber(arguments[2]), 0
  local key = arguments[3] or ''
  authorization = key == '' and '' or 'Authorization: Bearer ' .. key .. '\r\n'
  math.randomseed(seed + number)
end

local function new()
  return format("%04x%04x-%04x-4%03x-a%03x-%04x%04x%04x", random(0, 65535), random(0, 65535), random(0, 65535),
                random(0, 4095), random(0, 4095), random(0, 65535), random(0, 65535), random(0, 65535))
end

local function ordered()
  sent = sent + 1
  return format("%08x-0000-7%03x-a000-%012x", os.time(), number, sent)
end

local function stored() return format("a-key-that-was-stored-before-%07d", random(0, 9999)) end
local function storm() return format("a-storm-%08d-%019d", seed, os.time()) end

-- Three digits of amount, four of user: so that all bodies are of one length.
local function pay(key, user, amount)
  return format('POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 39\r\n' ..
                '%sIdempotency-Key: %s\r\n\r\n{"user_id": "user_%d", "amount": %d}', authorization, key, user, amount)
end

function request()
  if kind == "new" then return pay(new(), random(1000, 9999), 100) end
  if kind == "ordered" then return pay(ordered(), random(1000, 9999), 100) end
  if kind == "replay" then return pay(stored(), 1000, 100) end
  if kind == "storm" then return pay(storm(), 1000, 100) end
  local place = random(1, 100)
  if place <= 90 then return pay(new(), random(1000, 9999), 100) end
  return pay(stored(), 1000, place == 100 and 900 or 100)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(format('figures: {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f, ' ..
                  '"processor_seconds": %.3f, "refused": %d, "broken": %d}\n',
                  summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
                  latency:percentile(99) / 1e3, os.clock(), errors.status,
                  errors.connect + errors.read + errors.write + errors.timeout))
end
