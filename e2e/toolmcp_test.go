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
		activations: 6, says: "hello from a tool", dead: "has used all 6 activations", setup: func(st *stage) { serveMCPToPages(st, "http") },
	},
	{
		name: "the same, where its streams are free", line: `new StreamableHTTPClientTransport(new URL("/mcp", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } })`,
		file: "browser/page.mjs", source: "tools/mcppage.mjs", needs: []string{"node", "chromium"}, long: true,
		activations: 5, free: 1, says: "hello from a tool", dead: "has used all 5 activations", setup: func(st *stage) {
			serveMCPToPages(st, "http")
			st.options.upstream += "\nfree GET /mcp"
		},
	},
	{
		name: "MCP at an upstream's own path, from Node", line: `new StreamableHTTPClientTransport(new URL(TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } })`,
		file: "tools/mcpnode.mjs", source: "tools/mcppage.mjs", needs: []string{"node"}, long: true,
		activations: 6, says: "hello from a tool", dead: "has used all 6 activations", setup: func(st *stage) {
			serveMCP(st, "root")
			st.options.to = st.upstream.URL + "/mcp"
		},
	},
	{
		name: "MCP over HTTP with SSE, from a page", line: `new SSEClientTransport(new URL("/sse", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } })`,
		file: "browser/page.mjs", source: "tools/mcppage.mjs", needs: []string{"node", "chromium"}, long: true,
		activations: 5, says: "hello from a tool", dead: "402", setup: func(st *stage) { serveMCPToPages(st, "sse") },
	},
}

// serveMCP has a server of MCP's own SDK.
func serveMCP(st *stage, transport string) {
	if _, err := os.Stat("tools/node_modules/@modelcontextprotocol/sdk"); err != nil {
		st.Fatalf("%v; run: make clients (or: npm ci, in e2e/tools)", err)
	}
	address := freePort(st.T)
	st.upstream.serve(process(st.T, address, exec.CommandContext(st.Context(), "node", "tools/mcp.mjs", address)))
	st.env = append(st.env, "TRANSPORT="+transport)
}

// serveMCPToPages has besides a page of another origin, with a client of the same SDK.
func serveMCPToPages(st *stage, transport string) {
	serveMCP(st, transport)
	if _, err := os.Stat("browser/node_modules/playwright-core"); err != nil {
		st.Fatalf("%v; run: make clients (or: npm ci, in e2e/browser)", err)
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
	st.options.upstream = "cors " + page.URL
	st.env = append(st.env, "PAGE="+page.URL, "CHROMIUM="+chromium)
	waitsFor(st.T, browserPlaces, 1)
}
