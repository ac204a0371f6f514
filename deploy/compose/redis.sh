#!/bin/sh
# Redis as docs/redis.md asks for it: an append-only file, no eviction, a user with the rights that the sidecar needs and
# no other. The default user cannot log in but keeps its rights: Redis replays the append-only file as that user, and
# without rights it drops every transaction in it. The password comes on standard input, where no process list shows it.
exec redis-server - <<END
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory 100mb
maxmemory-policy noeviction
user default off ~* &* +@all
user sidecar on >$REDIS_PASSWORD ~sidecar:* &sidecar:* +@read +@write +@connection +eval +evalsha +publish +subscribe +info +wait +scan
END
