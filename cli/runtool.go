package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

// handover is how `run` points a command at this server, in addition to the variables
// that the SDKs read. It may be made before a key is minted, and holds no key.
type handover struct {
	args      []string // the command's own
	base      string
	upstreams []wire.UpstreamInfo // for which it gets keys, in this order
	environ   []string            // the environment of run
	dir       string              // for files that are removed when the command ends

	set     []clients.Variable
	without []string // variables that the SDKs read and this command must not see
	before  []string // arguments that precede its own
}

// toolHandover sets up one command. It fails if the command would still call the
// vendor, with a key that is not valid there.
type toolHandover func(*handover) error

// runTools lists the commands for which the variables that the SDKs read are not
// enough, or are too many.
var runTools = map[string]toolHandover{
	// claude asks people about this variable, and warns if both are set.
	"claude": func(h *handover) error {
		h.without = []string{"ANTHROPIC_API_KEY"}
		return nil
	},
	"cline":    (*handover).cline,
	"cn":       (*handover).cn,
	"codex":    (*handover).codex,
	"gemini":   (*handover).gemini,
	"goose":    (*handover).goose,
	"opencode": (*handover).opencode,
	"pi":       (*handover).pi,
	"qwen":     (*handover).qwen,
}

func tool(command string) string {
	return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(command), ".exe"), ".cmd")
}

// vendorNames maps presets to the names that a command has for their vendors.
type vendorNames map[string]string

// usualNames are the names that several commands use.
var usualNames = vendorNames{"openai": "openai", "anthropic": "anthropic", "gemini": "google"}

// vendors returns the upstreams with the command's names for them. Of several
// upstreams with the same name only the first counts, as with variables.
func (h *handover) vendors(names vendorNames) (found []vendorAt, err error) {
	for _, u := range h.upstreams {
		p, ok := upstream.Lookup(u.Preset)
		if !ok {
			continue // it is not a vendor of models
		}
		name, ok := names[u.Preset]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s is not run with a key of %s: `run` cannot point it at an upstream of the preset %s, and it would send the key to the vendor",
				tool(h.args[0]), u.Name, u.Preset)
		case !slices.ContainsFunc(found, func(v vendorAt) bool { return v.name == name }):
			found = append(found, vendorAt{name, h.base + p.Prefix})
		}
	}
	return found, nil
}

// vendorAt is a vendor with the address for an SDK whose base URL includes the version.
type vendorAt struct{ name, base string }

// has reports whether the command's own arguments set one of the flags.
func (h *handover) has(flags ...string) bool {
	return slices.ContainsFunc(h.args[1:], func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return slices.Contains(flags, name)
	})
}

func (h *handover) variable(name string) string {
	for _, line := range slices.Backward(h.environ) {
		if n, value, _ := strings.Cut(line, "="); n == name {
			return value
		}
	}
	return ""
}

// file writes a file that is removed when the command ends.
func (h *handover) file(name string, content any) (path string, err error) {
	text, ok := content.(string)
	if !ok {
		b, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			return "", err
		}
		text = string(b) + "\n"
	}
	path = filepath.Join(h.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// codex gets the address by arguments. It reads it from no variable, and would call
// the vendor as the user who is signed in. The key stays in the environment.
func (h *handover) codex() error {
	i := slices.IndexFunc(h.upstreams, func(u wire.UpstreamInfo) bool { return u.Preset == "openai" })
	if i >= 0 {
		provider := fmt.Sprintf(`model_providers.till={name="till", base_url=%q, env_key=%q, wire_api="responses"}`,
			h.base+"/v1", keyVariable(h.upstreams[i].Name))
		h.before = []string{"-c", `model_provider="till"`, "-c", provider}
	}
	return nil
}

// opencode reads the addresses of vendors only from its configuration, to which a
// variable can add. What is already in that variable is kept.
func (h *handover) opencode() error {
	found, err := h.vendors(usualNames)
	if err != nil || len(found) == 0 {
		return err
	}
	const name = "OPENCODE_CONFIG_CONTENT"
	config := map[string]any{}
	if own := h.variable(name); own != "" {
		if err := json.Unmarshal([]byte(own), &config); err != nil {
			return fmt.Errorf("%s must be a JSON object, for the address to be added: %w", name, err)
		}
	}
	for _, v := range found {
		put(config, v.base, "provider", v.name, "options", "baseURL")
	}
	text, err := json.Marshal(config)
	h.set = append(h.set, clients.Variable{Name: name, Value: string(text)})
	return err
}

func put(in map[string]any, value any, path ...string) {
	for _, name := range path[:len(path)-1] {
		next, ok := in[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			in[name] = next
		}
		in = next
	}
	in[path[len(path)-1]] = value
}

// pi reads the addresses of its vendors from an extension.
func (h *handover) pi() error {
	found, err := h.vendors(usualNames)
	if err != nil || len(found) == 0 {
		return err
	}
	var code strings.Builder
	code.WriteString("export default (pi) => {\n")
	for _, v := range found {
		base := v.base
		if v.name == "anthropic" {
			base = h.base
		}
		fmt.Fprintf(&code, "  pi.registerProvider(%q, { baseUrl: %q });\n", v.name, base)
	}
	code.WriteString("};\n")
	path, err := h.file("till.mjs", code.String())
	h.before = []string{"-e", path}
	return err
}

// cline reads the address from its provider settings, and the key from the vendor's
// variable.
func (h *handover) cline() error {
	found, err := h.vendors(vendorNames{"openai": "openai-compatible", "anthropic": "anthropic", "gemini": "gemini"})
	if err != nil || len(found) == 0 {
		return err
	}
	settings := map[string]any{"version": 1, "lastUsedProvider": found[0].name, "modes": map[string]any{}}
	for _, v := range found {
		put(settings, map[string]any{"provider": v.name, "baseUrl": v.base}, "providers", v.name, "settings")
		put(settings, "2026-01-01T00:00:00Z", "providers", v.name, "updatedAt")
		put(settings, "manual", "providers", v.name, "tokenSource")
	}
	path, err := h.file("providers.json", settings)
	h.set = append(h.set, clients.Variable{Name: "CLINE_PROVIDER_SETTINGS_PATH", Value: path})
	return err
}

func (h *handover) cn() error {
	if h.has("--config") {
		return nil
	}
	return errors.New("cn reads the address only from its configuration, and would send the key to the vendor: " +
		"run it with --config FILE, whose models have apiBase: " + h.base + "/v1 (docs/clients.md)")
}

func (h *handover) goose() error {
	for _, v := range []struct{ preset, variable, provider string }{
		{"openai", "OPENAI_HOST", "openai"}, {"anthropic", "ANTHROPIC_HOST", "anthropic"}, {"gemini", "GOOGLE_HOST", "google"},
	} {
		if slices.ContainsFunc(h.upstreams, func(u wire.UpstreamInfo) bool { return u.Preset == v.preset }) {
			h.set = append(h.set, clients.Variable{Name: v.variable, Value: h.base})
			if h.variable("GOOSE_PROVIDER") == "" && !slices.ContainsFunc(h.set, func(s clients.Variable) bool { return s.Name == "GOOSE_PROVIDER" }) {
				h.set = append(h.set, clients.Variable{Name: "GOOSE_PROVIDER", Value: v.provider})
			}
		}
	}
	_, err := h.vendors(usualNames)
	return err
}

// qwen signs people in at its vendor unless an argument names the API to use.
func (h *handover) qwen() error {
	found, err := h.vendors(vendorNames{"openai": "openai", "anthropic": "anthropic", "gemini": "gemini",
		"openrouter": "openai", "fireworks": "openai", "perplexity": "openai", "deepseek": "openai", "xai": "openai", "ollama": "openai",
		"vllm": "openai", "llamacpp": "openai", "lmstudio": "openai", "tgi": "openai", "sglang": "openai"})
	if err == nil && len(found) > 0 && !h.has("--auth-type") {
		h.before = []string{"--auth-type", found[0].name}
	}
	return err
}

// gemini picks a way to sign in that it then refuses, unless its settings say that
// there is a key. It reads the settings from its home directory, so it gets a
// directory of links to the files in the user's own, with a copy of the settings
// that has this line. System-wide settings could have it, too, but gemini trusts
// those only if they belong to root.
func (h *handover) gemini() error {
	if !slices.ContainsFunc(h.upstreams, func(u wire.UpstreamInfo) bool { return u.Preset == "gemini" }) {
		return nil
	}
	home := h.variable("GEMINI_CLI_HOME")
	if home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return err
		}
	}
	const folder, file, keyed = ".gemini", "settings.json", "gemini-api-key"
	own := filepath.Join(home, folder)
	settings := map[string]any{}
	text, err := os.ReadFile(filepath.Join(own, file))
	if err == nil {
		err = json.Unmarshal(text, &settings)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading %s, in which security.auth.selectedType must be %q for gemini to use a key: %w", filepath.Join(own, file), keyed, err)
	}
	put(settings, keyed, "security", "auth", "selectedType")
	if err := os.Mkdir(filepath.Join(h.dir, folder), 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(own)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != file {
			if err := os.Symlink(filepath.Join(own, e.Name()), filepath.Join(h.dir, folder, e.Name())); err != nil {
				return err
			}
		}
	}
	if _, err = h.file(filepath.Join(folder, file), settings); err == nil {
		h.set = append(h.set, clients.Variable{Name: "GEMINI_CLI_HOME", Value: h.dir})
	}
	return err
}
