package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

var npmUses = []toolUse{
	{
		name: "npm install", line: `echo "//$HOST/:_authToken=$KEY" >.npmrc && npm install --registry $TILL --replace-registry-host always hello`, needs: []string{"npm"}, long: true,
		activations: 2, says: "added 1 package", dead: "402 Payment Required", setup: serveNPM,
	},
	{
		name: "npm publish", line: `echo "//$HOST/:_authToken=$KEY" >.npmrc && npm publish --registry $TILL ./world`, needs: []string{"npm"}, long: true,
		activations: 3, says: "+ world@1.0.0", dead: "402 Payment Required", setup: serveNPM,
	},
}

// serveNPM has a registry of packages, verdaccio, with one.
func serveNPM(st *stage) {
	if _, err := os.Stat("tools/node_modules/verdaccio"); err != nil {
		st.Fatal("verdaccio is not installed; run: make clients (or: npm ci, in e2e/tools)")
	}
	address, store := freePort(st.T), st.TempDir()
	config := store + "/config.yaml"
	if err := os.WriteFile(config, fmt.Appendf(nil, `storage: %s/storage
auth: {htpasswd: {file: %[1]s/htpasswd}}
packages: {"**": {access: $all, publish: $all}}
log: {type: stdout, format: json, level: warn}
`, store), 0o600); err != nil {
		st.Fatal(err)
	}
	cmd := exec.CommandContext(st.Context(), "node", "tools/node_modules/verdaccio/bin/verdaccio", "--config", config, "--listen", address)
	cmd.Env = append(os.Environ(), "HOME="+store)
	st.upstream.serve(process(st.T, address, cmd))
	path, err := filepath.Abs("tools/node_modules/.bin")
	if err != nil {
		st.Fatal(err)
	}
	st.env = append(st.env, "PATH="+path+":"+os.Getenv("PATH"), "NPM_CONFIG_UPDATE_NOTIFIER=false", "NPM_CONFIG_AUDIT=false", "NPM_CONFIG_FUND=false")
	for _, name := range []string{"hello", "world"} {
		st.write(name+"/package.json", fmt.Appendf(nil, `{"name":%q,"version":"1.0.0"}`, name))
	}
	st.prepare(`echo "//$HOST/:_authToken=$KEY" >.npmrc && npm publish --registry $TILL ./hello && rm -r .npmrc hello`)
}
