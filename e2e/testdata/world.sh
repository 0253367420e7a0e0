# shellcheck shell=bash
# The first process of a world (docsworld_linux_test.go): it makes the machine
# that docs/ is written for, and then runs what comes on its standard input, a
# command and its input at a time, each ended by a NUL byte.
set -euo pipefail
world=$1
exec 3<&0 </dev/null

make_machine() {
	mount --make-rprivate /
	# A disk whose power another test cuts must not live on in this copy of it: to
	# mount it again would give the one that was cut off.
	while read -r at; do
		umount -l "$at"
	done < <(findmnt -rno TARGET,SOURCE | awk -v temp="$TEMP/" '$2 ~ "^/dev/loop" && index($1, temp) == 1 { print $1 }')
	mount -t proc proc /proc
	mount -t tmpfs -o mode=755 tmpfs "$world"
	for dir in etc usr/bin; do # with what comes to it besides
		mkdir -p "$world/over/$dir" "$world/scratch/$dir"
		mount -t overlay -o "lowerdir=/$dir,upperdir=$world/over/$dir,workdir=$world/scratch/$dir" till "/$dir"
	done
	touch /usr/bin/caddy
	mount --bind "$CADDY" /usr/bin/caddy
	fresh /var /run /mnt /home /etc/systemd /etc/cron.daily
	mkdir -p /var/backups /var/lib /var/log /mnt/other-volume /etc/caddy /etc/systemd/system /var/local/bin /var/local/src "$world/tmp"
	export TMPDIR=$world/tmp HOME=/var/local PATH=/var/local/bin:$PATH
	chmod 1777 "$TMPDIR"
	# One who may not become others is every user.
	if [ "$(wc -l </proc/self/uid_map)" = 1 ] && grep -q ' 1$' /proc/self/uid_map; then
		alone=true
		for name in caddy agent; do
			add /etc/passwd <<<"$name:x:0:0::/var/lib/$name:/bin/sh"
			add /etc/group <<<"$name:x:0:"
		done
	fi
	add /etc/hosts <<-END
		127.0.0.1 agents.example.com till.example.com
		127.0.0.2 api.openai.com api.anthropic.com generativelanguage.googleapis.com api.github.com ops.example.com
	END
	cp "$CHECKOUT/init/till.service" /var/local/
	cp /var/local/till.service /etc/systemd/system/
	make_programs
	printf 'silent\nshow-error\n' >"$HOME/.curlrc" # as it is where its output is a terminal
	cd "$HOME"
}

# fresh puts an empty directory over each, with what the tests need of it.
fresh() {
	mkdir -p "$world/was"
	for dir; do
		mkdir -p "$dir"
		mount --rbind "$dir" "$world/was"
		mount -t tmpfs -o mode=755 tmpfs "$dir"
		for kept in "$CHECKOUT" "$GOCACHE" "$GOMODCACHE" "$world"; do
			case $kept in "$dir"/*) mkdir -p "$kept" && mount --rbind "$world/was/${kept#"$dir"/}" "$kept" ;; esac
		done
		umount -l "$world/was"
	done
}

# add puts lines at the end of a file, by another that takes its place: what is
# there may be of a user who is unknown here.
add() {
	{ cat "$1"; cat; } >"$1.new"
	mv "$1.new" "$1"
}

program() { cat >"/var/local/bin/$1" && chmod +x "/var/local/bin/$1"; }

make_programs() {
	# as runs a command as a user.
	program as <<-'END'
		#!/bin/bash
		[ "$alone" = false ] || exec "${@:2}"
		exec setpriv --reuid="$1" --regid="$1" --init-groups --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service -- "${@:2}"
	END
	export alone
	# systemctl does with the shipped unit what its lines say, but for the sandbox.
	program systemctl <<-'END'
		#!/bin/bash
		set -euo pipefail
		[ "$1" != daemon-reload ] || exit 0
		if [ "$1 $2" = "enable --now" ]; then set -- start "$3"; fi
		unit=/etc/systemd/system/$2.service
		[ -e "$unit" ] || { echo "Unit $2.service not found." >&2; exit 5; }
		says() { sed -n "s/^$1=//p" "$unit"; }
		pid=/var/lib/pid-of-$2
		service() {
			# shellcheck disable=SC2046 # they are words
			exec as "$(says User)" env -i PATH=/usr/bin:/bin LOGNAME="$(says User)" SSL_CERT_FILE="${SSL_CERT_FILE:-}" $(says Environment) "$@"
		}
		case $1 in
		start)
			for dir in $(says StateDirectory); do
				mkdir -p "/var/lib/$dir"
				chmod "$(says StateDirectoryMode)" "/var/lib/$dir"
				# systemd.exec(5): if another owns it, the user is given all of it.
				[ "$(stat -c %U "/var/lib/$dir")" = "$(says User)" ] || chown -R "$(says User):$(says Group)" "/var/lib/$dir"
			done
			for dir in $(says RuntimeDirectory); do
				install -d -o "$(says User)" -g "$(says Group)" -m "$(says RuntimeDirectoryMode)" "/run/$dir"
			done
			umask "$(says UMask)"
			log=/var/log/$2.log
			touch "$log"
			before=$(stat -c %s "$log")
			# shellcheck disable=SC2046
			service $(says ExecStart) >>"$log" 2>&1 &
			echo $! >"$pid"
			# What Type=notify waits for.
			until tail -c "+$((before + 1))" "$log" | grep 'serving initial configuration' >/dev/null; do
				kill -0 "$(cat "$pid")" || { tail -n 5 "$log" >&2; exit 1; }
				sleep 0.05
			done
			;;
		stop)
			kill "$(cat "$pid")"
			tail -s 0.05 --pid="$(cat "$pid")" -f /dev/null
			for dir in $(says RuntimeDirectory); do rm -r "/run/$dir"; done
			;;
		# shellcheck disable=SC2046
		reload) service $(says ExecReload) ;;
		restart) "$0" stop "$2" && "$0" start "$2" ;;
		*) echo "systemctl $1: the stand-in knows no such command" >&2; exit 1 ;;
		esac
	END
	program journalctl <<-'END'
		#!/bin/bash
		[ "$1" = -u ] && [ -e "/etc/systemd/system/$2.service" ] || { echo "no such unit" >&2; exit 1; }
		cat "/var/log/$2.log"
	END
	program sudo <<-'END'
		#!/bin/bash
		if [ "$1" != -u ]; then exec "$@"; fi
		as "$2" "${@:3}"
	END
	if [ "$alone" = true ]; then ln -s /bin/true /var/local/bin/useradd; fi
	# Agents ask once, with what they find in their environment.
	program my-agent <<-'END'
		#!/bin/bash
		curl -sf "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
			-d '{"model":"gpt-5-mini","messages":[{"role":"user","content":"asked by an agent"}]}'
	END
	for name in claude python; do
		ln -s my-agent "/var/local/bin/$name"
	done
}

# local_names lets a Caddyfile work where no certificate can be had from elsewhere.
local_names() { sed '0,/^{$/s//{\n\tlocal_certs\n\tskip_install_trust\n\tdefault_bind 127.0.0.1/'; }

# install_caddyfile is what the reader does with one of a page.
install_caddyfile() { local_names >/etc/caddy/Caddyfile; }

internet() {
	cat >/etc/caddy/internet <<-'END'
		{
			admin off
			local_certs
			skip_install_trust
			default_bind 127.0.0.2
			log {
				output file /var/log/internet.log
			}
			servers {
				log_credentials
			}
		}
		api.openai.com, api.anthropic.com, generativelanguage.googleapis.com {
			log
			till_echo
		}
		api.github.com {
			respond "a repository"
		}
		ops.example.com {
			reverse_proxy 127.0.0.2:8800
		}
	END
	install -d -o caddy -m 0700 /var/lib/caddy
	install -o caddy -m 0600 /dev/null /var/log/internet.log
	as caddy env XDG_DATA_HOME=/var/lib/caddy caddy run --adapter caddyfile --config /etc/caddy/internet >/var/log/internet.out 2>&1 &
	local root=/var/lib/caddy/caddy/pki/authorities/local/root.crt
	until [ -e $root ] && curl -s --cacert $root https://api.openai.com/v1/models >/dev/null; do
		kill -0 $! || { cat /var/log/internet.out >&2; return 1; }
		sleep 0.05
	done
	install -m 0644 $root /etc/till-ca.crt
	export SSL_CERT_FILE=/etc/till-ca.crt CURL_CA_BUNDLE=/etc/till-ca.crt
}

# serve does what the unit says at its top, word for word.
serve() {
	install_caddyfile <<-END
		{
			till {
				store badger /var/lib/till
				public_url https://agents.example.com
				console_url https://till.example.com
				upstream openai {
					credential {file./etc/till/openai.key}
				}
				$MORE
			}
		}
		agents.example.com {
			till
		}
		till.example.com {
			till_console
		}
	END
	echo sk-real-0123456789abcdefghijklmnopqrstuvwxyz >openai.key
	while read -r line; do
		case $line in
		useradd*) eval "$line" && internet ;;
		*) eval "$line" ;;
		esac
	done < <(sed -n 's/^#   \(useradd\|install\|systemctl\)/\1/p' till.service)
	# Certificates are made as soon as they are asked for.
	curl -s --retry 50 --retry-connrefused --retry-all-errors --retry-delay 1 https://agents.example.com/ https://till.example.com/ >/dev/null
}

# What the checks of docspages_linux_test.go are written with.

# mint [limits] prints a new key.
mint() { caddy till create --json "$@" | jq -r .scoped_key; }

# chat KEY [MODEL] prints the status of a request, and why it was refused.
chat() {
	curl -s -D - -o /dev/null https://agents.example.com/v1/chat/completions -H "Authorization: Bearer $1" -H 'Content-Type: application/json' \
		-d "{\"model\":\"${2:-gpt-5-mini}\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}" |
		tr -d '\r' | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p; s/^till-refusal: //p' | xargs
}

# is WANT COMMAND… succeeds when the command prints that.
is() {
	local got
	got=$("${@:2}")
	[ "$got" = "$1" ] || { echo "${*:2} says $got, want $1"; return 1; }
}

# sent TEXT succeeds when a provider was sent that, in a header. A provider may log a
# request after it has answered.
sent() {
	for _ in $(seq 600); do
		if grep -qF -- "$1" /var/log/internet.log; then return 0; fi
		sleep 0.1
	done
	echo "nobody was sent $1"
	return 1
}

# stays COMMAND TEXT DO starts a command that does not end, and waits for the text,
# doing something all the while; interrupt is Ctrl-C.
stays() {
	local out
	out=$(mktemp)
	set -m
	(eval "$1") >"$out" 2>&1 &
	set +m
	staying=$!
	until grep -qF -- "$2" "$out"; do
		kill -0 $staying 2>/dev/null || { cat "$out"; return 1; }
		eval "$3"
		sleep 0.05
	done
	cat "$out"
}
interrupt() {
	kill -INT -- "-$staying"
	tail -s 0.05 --pid="$staying" -f /dev/null
}

# reloading succeeds while two sockets listen at one address: that of Caddy's new
# configuration, and that of the old one, which may reset what connects to it.
reloading() { awk '$4 == "0A" && seen[$2]++ { twice = 1 } END { exit !twice }' /proc/net/tcp /proc/net/tcp6; }

alone=false
printed=$world/printed
trap 'cat "$world.log" >&2' EXIT
make_machine >"$world.log" 2>&1
[ "$SERVES" != true ] || serve >>"$world.log" 2>&1
trap - EXIT
set +eu

while IFS= read -r -d '' -u 3 command && IFS= read -r -d '' -u 3 input; do
	printf %s "$input" >"$world/input"
	status=0
	eval "$command" <"$world/input" >"$printed" 2>&1 || status=$?
	while reloading; do sleep 0.05; done
	cat "$printed"
	printf '\0%s\0' "$status"
done
