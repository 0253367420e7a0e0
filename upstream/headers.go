package upstream

import (
	"net/http"
	"slices"
	"strings"
)

// ProtocolSlot begins the subprotocol by which browsers, which cannot set a header on
// a WebSocket, send a key to OpenAI's Realtime API.
const ProtocolSlot = "openai-insecure-api-key."

// ChoosesAccount reports whether a subprotocol chooses the account at OpenAI, as the
// headers OpenAI-Organization and OpenAI-Project do where one can be set
// (https://platform.openai.com/docs/guides/realtime-websocket).
func ChoosesAccount(protocol string) bool {
	return strings.HasPrefix(protocol, "openai-organization.") || strings.HasPrefix(protocol, "openai-project.")
}

var (
	versionHeaders = []string{"Anthropic-Version", "Anthropic-Beta", "Openai-Beta"}
	sourceHeaders  = []string{
		"X-Copy-From", "X-Object-Manifest", "X-Symlink-Target",
		"X-Amz-Copy-Source", "X-Goog-Copy-Source", "X-Ms-Copy-Source", "X-Ms-Rename-Source",
	}
)

// geoHeader is Fireworks' way of asking where a request is served, for another price
// (https://docs.fireworks.ai/accounts/data-residency).
const geoHeader = "Fireworks-Inference-Geo"

// VersionHeaders lists the headers that determine how the body of a request is read.
// Callers must not change the list.
func VersionHeaders() []string { return versionHeaders }

// SourceHeaders lists the headers that name what a request copies from, or stands
// for: those of OpenStack Swift, and of the stores of Amazon, Google and Microsoft.
// Each has a form of its own. Callers must not change the list.
func SourceHeaders() []string { return sourceHeaders }

// Features returns the headers of a request that may select further input for a model,
// as anthropic-beta does, or the place that serves the request.
func Features(h http.Header) string {
	var all []string
	for name, values := range h {
		if strings.HasPrefix(name, "Anthropic-") || strings.HasPrefix(name, "Openai-") || strings.HasPrefix(name, "X-Goog-") || name == geoHeader || strings.Contains(name, "Beta") {
			all = append(all, name+": "+strings.Join(values, ","))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// Unmask removes the header that would leave members, including usage, out of the
// answer. In a query this is an error; see plainQuery.
func Unmask(h http.Header) { delete(h, "X-Goog-Fieldmask") }
