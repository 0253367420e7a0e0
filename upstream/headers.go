package upstream

import (
	"net/http"
	"slices"
	"strings"
)

// ProtocolSlot begins the subprotocol in which browsers, which can set no header on a
// WebSocket, send a key to OpenAI's Realtime API.
const ProtocolSlot = "openai-insecure-api-key."

var (
	versionHeaders = []string{"Anthropic-Version", "Anthropic-Beta", "Openai-Beta"}
	sourceHeaders  = []string{
		"X-Copy-From", "X-Object-Manifest", "X-Symlink-Target",
		"X-Amz-Copy-Source", "X-Goog-Copy-Source", "X-Ms-Copy-Source", "X-Ms-Rename-Source",
	}
)

// VersionHeaders lists the headers that say how the body of a request is to be read.
// Nobody may change it.
func VersionHeaders() []string { return versionHeaders }

// SourceHeaders lists the headers that name what a request copies from, or stands
// for: those of OpenStack Swift, and of the stores of Amazon, Google and Microsoft.
// Each has a form of its own. Nobody may change it.
func SourceHeaders() []string { return sourceHeaders }

// Features are the headers of a request that may choose what else a model is given to
// read, as anthropic-beta does.
func Features(h http.Header) string {
	var all []string
	for name, values := range h {
		if strings.HasPrefix(name, "Anthropic-") || strings.HasPrefix(name, "Openai-") || strings.HasPrefix(name, "X-Goog-") || strings.Contains(name, "Beta") {
			all = append(all, name+": "+strings.Join(values, ","))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// Unmask takes out of a request's header what would leave members out of the answer,
// among them what was used. In a query it is an error; see plainQuery.
func Unmask(h http.Header) { delete(h, "X-Goog-Fieldmask") }
