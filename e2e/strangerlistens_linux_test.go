package e2e

import (
	"strings"
	"testing"
)

// hardenAdmin lets the admin endpoint of a world's server be the socket that docs/security.md
// names, and plainAdmin lets it be Caddy's own again.
const (
	hardenAdmin = `sed -i '0,/till {/s//admin unix\/\/run\/caddy\/admin.sock|0600\n\ttill {/' /etc/caddy/Caddyfile && systemctl restart till`
	plainAdmin  = `sed -i '/admin unix/d' /etc/caddy/Caddyfile && systemctl start till`
)

// agentListens is an agent that listens where Caddy does by default, and answers everything.
const agentListens = `agent_at() { as agent env HOME=/home/agent caddy respond --listen "$1" --access-log --body '{"keys":[],"lockdown":{"locked_down":true}}' 2>>$asked & agent=$!; until curl -so /dev/null "http://$1/ready"; do kill -0 $agent || { cat $asked; return 1; }; sleep 0.05; done; : >$asked; }; leaves() { kill $agent; tail -s 0.05 --pid=$agent -f /dev/null; }`

// TestNothingIsSentToAPortWhereAStrangerListens: on a machine whose server has a socket, or
// does not run, an agent listens at Caddy's default address. What people type reaches the
// server or nobody, with and without what the environment says.
func TestNothingIsSentToAPortWhereAStrangerListens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, &page{serves: true})
	if out, _ := w.runs(`echo "$alone"`, ""); strings.TrimSpace(out) == "true" {
		t.Skip("one who may not become others has nobody else to listen")
	}
	w.must("useradd --create-home agent; grep -q '::1.*localhost' /etc/hosts || echo '::1 localhost' | add /etc/hosts; asked=/var/log/asked; " + agentListens)
	w.must("caddy till create --name nightly --max-activations 10; echo sk-real >real.key; mint --max-activations 1 >ticket.txt")
	refused := func(command string) {
		t.Helper()
		out, status := w.runs(command, "")
		if status != 1 || !strings.Contains(out, "(agent) listens at localhost:2019") || !strings.Contains(out, "TILL_ADDRESS") {
			t.Errorf("%s: exit %d\n%s", command, status, out)
		}
	}
	all := []string{
		"caddy till list --upstream-key - <real.key", "caddy till create --max-activations 1 --upstream-key - <real.key", "caddy till leak - <ticket.txt",
		"caddy till lockdown", "caddy till live", "caddy till ready", "caddy till backup /var/backups/b.bak",
	}
	asked := func(want string) {
		t.Helper()
		if got := strings.TrimSpace(w.must("grep -c 'handled request' $asked || true")); got != want {
			t.Errorf("the agent was asked %s times, want %s:\n%s", got, want, w.must("cat $asked"))
		}
	}

	w.must(hardenAdmin)
	w.must("agent_at 127.0.0.1:2019")
	for _, command := range []string{
		"caddy till list --upstream-key - <real.key", "caddy till list | grep -q nightly", "caddy till leak - <ticket.txt | grep -q '1 revoked'", "caddy till lockdown", "caddy till lockdown --lift",
		"systemctl reload till", // by Caddy's own client
		// As cron does, and as the image's health check does: as the server's user.
		"env -i PATH=/usr/bin:/bin HOME=/root caddy till backup /var/backups/cron.bak",
		"env -i PATH=/usr/bin:/bin caddy till backup /var/backups/bare.bak",
		`as caddy env -i PATH=/usr/bin:/bin HOME=/var/lib/caddy $(sed -n 's/^HEALTHCHECK .* CMD //p' "$CHECKOUT/xcaddy.Dockerfile")`,
		"TILL_ADDRESS=unix//run/caddy/admin.sock caddy till list | grep -q nightly",
	} {
		w.must(command)
	}
	asked("0")
	w.must("systemctl stop till")
	for _, command := range all {
		refused(command)
	}
	refused(`unshare --mount sh -c 'mount -t proc -o subset=pid proc /proc && exec caddy till list'`) // as ProcSubset=pid
	asked("0")
	w.must("TILL_ADDRESS=localhost:2019 caddy till list && caddy till list --address localhost:2019")
	asked("2")
	w.must("leaves")
	if _, status := w.runs("grep -q '^0*1 ' /proc/net/if_inet6", ""); status != 0 {
		t.Log("this machine has no ::1")
		return
	}

	// What holds the other name of loopback is not asked while Caddy listens at its own.
	w.must(plainAdmin)
	w.must(`agent_at "[::1]:2019"`)
	w.must("caddy till list | grep -q nightly")
	w.must("TILL_ADDRESS=localhost:2019 caddy till list | grep -q nightly")
	w.must("TILL_ADDRESS=http://localhost:2019 caddy till list | grep -q nightly")
	asked("0")
	w.must("systemctl stop till")
	for _, command := range all {
		refused(command)
	}
	asked("0")
}
