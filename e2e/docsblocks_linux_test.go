package e2e

// isUp is the last line that `up` prints.
const isUp = "Stop with Ctrl-C"

// pages says for each page of docs/ with more than what is shown or parsed what is
// there when somebody follows it.
var pages = []*page{
	{
		path: "README.md", serves: true, before: `cd "$CHECKOUT"`, installs: "install_caddyfile && systemctl reload till",
		stays: map[string]string{"make run": isUp},
		then: map[string]string{
			// Its curl, as it stands, answers five times.
			"make run": `curl=$(sed -n '/^curl/,/^$/p' $said); for i in 1 2 3 4 5; do eval "$curl" | grep -q '"content":"Hi"' || return 1; done;
				eval "$curl" | grep -q 'has used all 5 activations'; refused=$?; interrupt; rm -r "$HOME/.local/share/caddy/till"; return $refused`,
			"caddy till run":    `grep -q 'asked by an agent' $said && grep -q 'used 1 of 200 activations' $said`,
			"caddy till create": `nightly=$(grep -o 'till_sk_[0-9A-Za-z]*' $said | head -n 1); is 200 chat $nightly`,
			"caddy till revoke": `is "403 till_key_revoked" chat $nightly`,
		},
	},
	{
		path: "Caddyfile.example", before: `cd "$CHECKOUT"`,
		stays: map[string]string{"OPENAI_API_KEY": "serving initial configuration"},
		then:  map[string]string{"caddy till create": `grep -q till_sk_ $said`},
	},
	{
		path: "docs/access.md", serves: true,
		// With an upstream besides the page's, which is the only one of its roles.
		installs: `install_caddyfile && sed -i '0,/till {/s//till {\n\t\tupstream claude anthropic {\n\t\t\tcredential {file.\/etc\/till\/openai.key}\n\t\t}/' /etc/caddy/Caddyfile`,
		then: map[string]string{
			"caddy till create --name trial": `trial=$(grep -o 'till_sk_[0-9A-Za-z]*' $said | head -n 1); is 200 chat $trial && is "403 till_model_not_allowed" chat $trial o3 &&
				self=$(curl https://agents.example.com/till/self -H "Authorization: Bearer $trial") && for part in '"max_activations":50' '"max_spend_usd":"5.00"' '"models":["gpt-5-mini","gpt-5-nano"]' '"methods":["POST"]' '"expires_at"'; do
					[[ $self = *"$part"* ]] || { echo "no $part in $self"; return 1; }; done`,
			"caddy till list --created-by": `grep -q trial $said && ! grep -q greedy $said`,
		},
	},
	{
		path: "docs/clients.md", serves: true, before: "KEY=$(mint --upstream openai --max-activations 10)",
		till: "upstream github https://api.github.com {\ncredential {file./etc/till/openai.key}\n}\nupstream gemini {\ncredential {file./etc/till/openai.key}\n}",
		then: map[string]string{
			"curl https://agents.example.com/v1":       `grep -q '"content":"Hi"' $said; KEY=$(mint --upstream github --max-activations 10)`,
			"curl https://agents.example.com/repos":    `grep -q 'a repository' $said; KEY=$(mint --upstream gemini --max-activations 10)`,
			"curl \"https://agents.example.com/v1beta": `! grep -q till_ $said`,
			"curl https://agents.example.com/till":     `grep -q '"remaining_activations":10' $said`,
		},
	},
	{
		path: "docs/command-line.md", serves: true, till: "upstream anthropic {\ncredential {file./etc/till/openai.key}\n}\nrole researcher {\nmax_lifetime 24h\n}",
		before: `today=$(date +%F) # which may end while the page is followed
			git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m "$(mint --upstream openai --expires-in 1h)"
			mint --upstream openai --name nightly --max-activations 50; ln -s my-agent /var/local/bin/node
			mint --upstream openai --name dead --owner ann --max-activations 1; caddy till revoke dead; dead=$(caddy till show dead --json | jq -r .id)`,
		typed: []string{"key_01M86CD5XPYDCWAP07D6V89DTK", "$dead", "backup till-$(date +%F)", "backup till-$today", "2026-11-24", "$today", "caddy till create --max-activations 500", "caddy till create --upstream openai --max-activations 500",
			"caddy till run --max", "caddy till run --upstream openai --max"},
		stays: map[string]string{"OPENAI_API_KEY=sk-... caddy till up": isUp},
		then: map[string]string{
			"git log":            `grep -q "1 revoked" $said && systemctl stop till && rm /var/lib/till/anchor && systemctl start till`,
			"caddy till backup":  `systemctl stop till && mv /var/lib/till /var/lib/till.old`,
			"caddy till restore": `systemctl start till`,
		},
	},
	{
		path: "docs/console.md", serves: true, before: "TOKEN=$(caddy till token create ci --role reader --json | jq -r .token)",
		till:  "role reader {\npermissions keys:read\n}",
		typed: []string{"till_admin_…", "$TOKEN"},
		then:  map[string]string{"curl": `jq -e .keys $said`},
	},
	{
		path: "docs/delegation.md", serves: true,
		then: map[string]string{
			"caddy till create": `CREW=$(grep -o 'till_sk_[0-9A-Za-z]*' $said | head -n 1)`,
			"curl":              `is 200 chat "$(cat $said)"`,
		},
	},
	{
		path: "docs/events.md", serves: true,
		stays: map[string]string{"curl -sN": "event: key_created"},
		while: "mint --max-activations 1 >/dev/null",
	},
	{
		path: "docs/leaks.md", serves: true,
		before: `mkdir src ~/src; (cd src && git init -q . && mint --max-activations 5 >a && git add a && git -c user.name=a -c user.email=a@b commit -qm a)
			mint --max-activations 5 >notebook.ipynb; mint --max-activations 5 >ticket.txt; mint --max-activations 5 >~/src/dry; cd src; ln -s ../notebook.ipynb ../ticket.txt .`,
		then: map[string]string{
			"caddy till leak notebook":   `grep -q '1 revoked' $said`,
			"caddy till leak ~/src":      `is 200 chat "$(cat ~/src/dry)"`,
			"git log":                    `grep -q '1 revoked' $said`,
			"caddy till leak - < ticket": `grep -q '1 revoked' $said`,
		},
	},
	{
		path: "docs/quickstart.md", serves: true, before: `cd "$CHECKOUT"`,
		stays: map[string]string{"make run": isUp, "OPENAI_API_KEY=sk-... make run": isUp},
		then: map[string]string{
			"make run":       "interrupt",
			"caddy till run": `grep -q 'asked by an agent' $said && sent "Bearer sk-..."`,
		},
	},
	{
		path: "docs/reliability.md", serves: true, till: "seal_key_file /var/lib/till/seal.key",
		before: `today=$(date +%F); caddy till create --name nightly --max-activations 10; other=$(mint --max-activations 10); timed=$(mint --expires-in 1h); gone=$(mint --max-activations 10 --name gone)
			sealed=$(echo sk-sealed | caddy till create --name sealed --max-activations 10 --upstream-key - --json | jq -r .scoped_key); nightly=$(caddy till rotate nightly --json | jq -r .scoped_key); metered=$(mint --name metered --max-tokens 1M); echo sk-second >real.key; is 200 chat $nightly && is 200 chat $sealed && is 200 chat $metered`,
		typed: []string{"resume KEY", "resume nightly sealed metered", "rotate KEY", "rotate sealed", "grant KEY", "grant nightly sealed", "backup /var/backups/till-$(date +%F)", "backup /var/backups/till-$today", "2026-11-24", "$today"},
		then: map[string]string{
			`caddy till lockdown --reason`: `is "403 till_locked_down" chat $nightly`,
			`caddy till lockdown --lift`:   `is 200 chat $nightly`,
			// Since the backup a string was rotated away, and an answer has passed its bound.
			`caddy till backup /var`: `caddy till seal >seals; caddy till revoke gone; caddy till lockdown; leaked=$nightly; caddy till rotate nightly || return
				echo '[{"upstream":"openai","addresses":["https://api.openai.com"],"option":"input_extra","held":1,"seen":9,"key_id":"x","at":"2026-11-24T00:00:00Z"}]' >/var/lib/till/contradictions; chown caddy /var/lib/till/contradictions`,
			`chmod +x`:                  `mv /var/backups/till-$today.bak /tmp/kept.$$; /etc/cron.daily/till && mv /tmp/kept.$$ /var/backups/till-$today.bak`,
			`systemctl start`:           `caddy till seal | diff - seals && is "403 till_locked_down" chat $nightly && caddy till lockdown --lift && is "403 till_key_suspended" chat $leaked`,
			`caddy till rotate nightly`: `nightly=$(grep -o 'till_sk_[0-9A-Za-z]*' $said | head -n 1); is "403 till_key_suspended" chat $nightly`,
			`caddy till resume`:         `is 200 chat $nightly && is "403 till_key_revoked" chat $leaked && is "403 till_not_meterable" chat $metered && is "401 till_key_invalid" chat $sealed && is "403 till_key_suspended" chat $gone`,
			`caddy till audit`:          `grep -q store.restore $said`,
			`caddy till rotate KEY`:     `is 200 chat "$(grep -o 'till_sk_[0-9A-Za-z._-]*' $said | head -n 1)" && sent "Bearer sk-second" && systemctl stop till && rm /var/lib/till/anchor && systemctl start till && is "503 till_store_unavailable" chat $nightly`,
			`caddy till grant`:          `for i in $(seq 100); do is 200 chat $nightly || return; done; is "402 till_activations_exhausted" chat $nightly && is "403 till_key_suspended" chat $timed`,
			`caddy till list`:           `grep -q suspended $said`,
			`df`:                        `caddy till grant nightly --activations 1 && is 200 chat $nightly`,
			`journalctl`:                `grep -q anchor $said`,
		},
	},
	{
		path: "docs/runbooks.md", serves: true,
		till: "role researcher {\npermissions keys:create keys:read keys:revoke\nmax_activations 500\nmax_lifetime 24h\n}",
		before: `TOKEN=$(caddy till token create anna --role researcher --json | jq -r .token)
			anna() { TILL_ADDRESS=https://till.example.com/till/api TILL_TOKEN=$TOKEN "$@"; }
			nightly=$(anna mint --name nightly --max-activations 50); trial=$(anna mint --name trial --max-activations 50); anna mint --max-activations 501
			hourly=$(mint --name hourly --max-activations 50); echo sk-sealed >real.key; echo sk-new >new.key
			sealed=$(caddy till create --name sealed --max-activations 10 --upstream-key - --json < real.key | jq -r .scoped_key); true`,
		typed: []string{"KEY", "sealed", "key_01M8…", "$(caddy till show nightly --json | jq -r .id)"},
		input: map[string]string{"install -o caddy -m 0600 /dev/stdin /etc/till/openai.key.new": "sk-real-second\n"},
		then: map[string]string{
			"mv /etc/till/openai.key.new":                                          `until journalctl -u till -o cat | grep -q 'a file changed'; do sleep 0.1; done; is 200 chat $hourly && sent "Bearer sk-real-second"`,
			"caddy till rotate KEY --grace":                                        `is 200 chat $sealed && grep -o 'till_sk_[0-9A-Za-z._-]*' $said | head -n 1 >fresh && is 200 chat "$(cat fresh)"`,
			"caddy till rotate nightly":                                            `is 200 chat $nightly; grep -o 'till_sk_[0-9A-Za-z]*' $said | head -n 1 >string; { for i in $(seq 13); do echo line; done; echo "Authorization: Bearer $(cat string)"; } >ticket.txt`,
			"caddy till revoke --all --created-by anna --except nightly --dry-run": `grep -q '^1 key ' $said`,
			"caddy till revoke --all --created-by anna --except nightly --reason":  `is "403 till_key_revoked" chat $trial && is 200 chat "$(cat string)" && is 200 chat $hourly`,
			"caddy till leak":                                                      `grep -q "^-:14  till_sk_....\.\.\.  key_.* (nightly)  revoked" $said && grep -qx "Found 1 string in 1 file; 1 revoked, 0 unknown." $said && is "403 till_key_revoked" chat "$(cat string)"`,
			"caddy till rotate hourly":                                             `is "403 till_key_revoked" chat $hourly`,
			"caddy till audit --key":                                               `grep -q key.leak $said`,
			"caddy till rotate KEY --upstream-key":                                 `is "403 till_key_revoked" chat "$(cat fresh)" && is 200 chat "$(grep -o 'till_sk_[0-9A-Za-z._-]*' $said | head -n 1)" && sent "Bearer sk-new"`,
			"grep '\"action\":\"act.refused":                                       `grep -q '"actor":"anna"' $said`,
		},
	},
	{
		path: "docs/security.md", serves: true, before: `stays "caddy till up --data $HOME/up" "Stop with Ctrl-C" true; KEY=$(TILL_ADDRESS=unix/$HOME/up/admin.sock mint --max-activations 5)`,
		typed: []string{"till_sk_...", "$KEY"},
		then:  map[string]string{"sudo -u agent": `grep -q 'asked by an agent' $said`},
	},
}
