package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
)

var mcpUses = []toolUse{
	{
		name: "MCP over streamable HTTP, from a page", line: `new StreamableHTTPClientTransport(new URL("/mcp", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } })`,
		file: "browser/page.mjs", source: "tools/mcppage.mjs", needs: []string{"node", "chromium"}, long: true,
		activations: 6, says: "hello from a tool", dead: "has used all 6 activations", setup: func(st *stage) { serveMCP(st, "http") },
	},
	{
		name: "the same, where its streams are free", line: `new StreamableHTTPClientTransport(new URL("/mcp", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } })`,
		file: "browser/page.mjs", source: "tools/mcppage.mjs", needs: []string{"node", "chromium"}, long: true,
		activations: 5, free: 1, says: "hello from a tool", dead: "has used all 5 activations", setup: func(st *stage) {
			serveMCP(st, "http")
			st.options.upstream += "\nfree GET /mcp"
		},
	},
	{
		name: "MCP over HTTP with SSE, from a page", line: `new SSEClientTransport(new URL("/sse", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } })`,
		file: "browser/page.mjs", source: "tools/mcppage.mjs", needs: []string{"node", "chromium"}, long: true,
		activations: 5, says: "hello from a tool", dead: "402", setup: func(st *stage) { serveMCP(st, "sse") },
	},
}

// serveMCP has a server of MCP's own SDK, and a page of another origin that is a
// client by the same.
func serveMCP(st *stage, transport string) {
	for _, needed := range []string{"tools/node_modules/@modelcontextprotocol/sdk", "tools/node_modules/.bin/esbuild", "browser/node_modules/playwright-core"} {
		if _, err := os.Stat(needed); err != nil {
			st.Fatalf("%v; run: make clients (or: npm ci, in e2e/tools and e2e/browser)", err)
		}
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		st.Fatal(err)
	}
	script, err := exec.CommandContext(st.Context(), "tools/node_modules/.bin/esbuild", "tools/mcppage.mjs", "--bundle", "--format=esm", "--platform=browser").Output()
	if err != nil {
		st.Fatal(err)
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/client.js" {
			w.Header().Set("Content-Type", "text/javascript")
			if _, err := w.Write(script); err != nil {
				st.Log(err)
			}
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><script type="module" src="/client.js"></script>`)
	}))
	st.Cleanup(page.Close)
	address := freePort(st.T)
	st.upstream.serve(process(st.T, address, exec.CommandContext(st.Context(), "node", "tools/mcp.mjs", address)))
	st.options.upstream = "cors " + page.URL
	st.env = append(st.env, "PAGE="+page.URL, "CHROMIUM="+chromium, "TRANSPORT="+transport)
	waitsFor(st.T, oneBrowser, 1)
}
