package e2e

import (
	"os/exec"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

var liveUses = []toolUse{{
	name: "Gemini Live, by @google/genai", line: `new GoogleGenAI({ apiKey: KEY, httpOptions: { baseUrl: TILL } })`, file: "sdk/live.mjs", needs: []string{"node"},
	activations: 1, says: "hello, live", dead: "Unexpected server response: 402", setup: func(st *stage) {
		needsSDKs(st.T)
		address := freePort(st.T)
		st.upstream.serve(process(st.T, address, exec.CommandContext(st.Context(), "node", "sdk/liveserver.mjs", address)))
		st.options.vendor = upstreamtest.Gemini
		st.options.upstream = "upgrades /ws/*"
	},
}}
