# Caddy with till, built from this checkout:
#
#   docker build -f xcaddy.Dockerfile -t till .
#   docker run --stop-timeout 30 -p 80:80 -p 443:443 -p 443:443/udp \
#     -v till:/var/lib/till -v caddy:/data \
#     -v ./Caddyfile:/etc/caddy/Caddyfile:ro -v ./keys:/etc/till:ro till
#
# The server runs as user 10001, which must be able to read ./keys/openai.key:
# chown it. With `store badger /var/lib/till` in the Caddyfile the store is in
# /var/lib/till, otherwise in /data like the seal key and the certificates: keep both.
# Anyone who may `docker exec` here manages every key. `caddy till` finds the server also
# with `admin unix//run/caddy/admin.sock`; for another address, give the container
# TILL_ADDRESS, which the health check goes by, too. The server makes that socket in
# /run/caddy of the image. `--tmpfs /run` hides that directory, so with `--read-only` use:
#   --tmpfs /run/caddy:mode=0700,uid=10001,gid=10001
# The server gets 30 seconds to stop, because its grace_period is 20s.

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN ./scripts/package.sh /out/caddy

FROM alpine:3.22
RUN apk add --no-cache ca-certificates mailcap tzdata \
	&& addgroup -S -g 10001 caddy \
	&& adduser -S -D -H -u 10001 -G caddy -h /data caddy \
	&& install -d -o caddy -g caddy -m 0700 /data /config /var/lib/till /run/caddy
COPY --from=build /out/caddy /usr/bin/caddy
COPY Caddyfile.example /etc/caddy/Caddyfile
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
VOLUME /data /config /var/lib/till
EXPOSE 80 443 443/udp
# Ports below 1024 need no privilege in a container: Docker sets
# net.ipv4.ip_unprivileged_port_start to 0.
# A number, because Kubernetes does not know that caddy is not root (runAsNonRoot).
USER 10001:10001
# A store in doubt is no reason to restart the server: that would not help.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD caddy till live
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
