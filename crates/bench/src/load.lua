-- The requests of a load, and their results: wrk -s load.lua URL -- KIND SEED [API-KEY]
--
--   new      payments with random keys (UUIDv4), the worst case for an index
--   ordered  payments with keys in order of time, as UUIDv7 are
--   replay   stored keys, chosen at random
--   one-key  one key for all clients, another one each second

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
local function one_key() return format("a-storm-%08d-%019d", seed, os.time()) end

-- Three digits of amount and four of user make all bodies equally long.
local function pay(key, user, amount)
  return format('POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 39\r\n' ..
                '%sIdempotency-Key: %s\r\n\r\n{"user_id": "user_%d", "amount": %d}', authorization, key, user, amount)
end

function request()
  if kind == "new" then return pay(new(), random(1000, 9999), 100) end
  if kind == "ordered" then return pay(ordered(), random(1000, 9999), 100) end
  if kind == "replay" then return pay(stored(), 1000, 100) end
  return pay(one_key(), 1000, 100)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(format('figures: {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f, ' ..
                  '"refused": %d, "broken": %d}\n',
                  summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
                  latency:percentile(99) / 1e3, errors.status,
                  errors.connect + errors.read + errors.write + errors.timeout))
end
