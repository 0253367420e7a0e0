package e2e

import (
	"strings"
	"testing"
)

// TestWhatRootRestoresTheUnitsServerOpens: with the store where it is by default, in a
// directory that is the server's own, and the anchor on another volume. The server is
// started each time; that it starts says that its files are its own.
func TestWhatRootRestoresTheUnitsServerOpens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, &page{serves: true})
	each := func(script string) {
		t.Helper()
		for line := range strings.Lines(script) {
			w.must(strings.TrimSpace(line))
		}
	}
	each(`store=/var/lib/caddy/caddy/till volume=/mnt/other-volume
		systemctl stop till
		chown caddy:caddy $volume; chmod 700 $volume
		sed -i "s|store badger .*|anchor $volume/till.anchor|" /etc/caddy/Caddyfile
		systemctl start till
		key=$(mint --name nightly --max-activations 10); is 200 chat $key
		caddy till backup /var/backups/till.bak`)

	// A unit without ReadWritePaths: the server stays up, and its log names the line.
	each(`systemctl stop till
		mount --bind $volume $volume && mount -o remount,bind,ro $volume
		systemctl start till
		is "503 till_store_unavailable" chat $key
		journalctl -u till | grep 'read-only file system' | grep -q ReadWritePaths=
		systemctl stop till && umount $volume`)

	each(`mv -T $store $store.old; mv $volume/till.anchor $volume/old.anchor
		caddy till restore /var/backups/till.bak --store $store --anchor $volume/till.anchor
		systemctl start till
		is "403 till_key_suspended" chat $key
		caddy till resume nightly && is 200 chat $key
		systemctl restart till && is 200 chat $key
		[ -z "$(find $store $volume/till.anchor ! -user caddy)" ]`)

	// A store of the unit's own, which root had in a directory of root's.
	each(`systemctl stop till; rm -r /var/lib/till $volume/till.anchor
		sed -i "s|anchor .*|store badger /var/lib/till|" /etc/caddy/Caddyfile
		caddy till restore /var/backups/till.bak --config /etc/caddy/Caddyfile
		systemctl start till
		caddy till resume nightly && is 200 chat $key`)
}
