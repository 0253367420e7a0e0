package cli

import (
	"context"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// completer offers words to a shell. It asks the server for what it does not know,
// and gives it only a short time to answer, because somebody has just pressed Tab.
type completer struct{ *globalFlags }

const (
	completeWithin = time.Second
	completeKeys   = 50
)

// offer returns the words that are offered for a beginning. A description may
// follow a word after a tab.
type offer func(ctx context.Context, begins string) []string

// complete sets the completions of every command in the tree.
func (f *globalFlags) complete(parent *cobra.Command) {
	c := completer{f}
	arguments := map[string]offer{
		"show": c.keys(""), "update": c.keys(""), "env": c.keys(""), "grant": c.keys(""), "rotate": c.keys(record.Active),
		"revoke": c.keys(""), "suspend": c.keys(record.Active), "resume": c.keys(record.Suspended), "forget": c.ended,
		"prices": models, "token revoke": c.tokens,
	}
	flags := map[string]offer{
		"upstream": c.upstreams, "role": c.roles, "models": models,
		"status":         words(record.Statuses[:]...),
		"sort":           words("created", "-created", "last_used", "-last_used"),
		"charge":         words(record.Charges[:]...),
		"renews":         words(record.Renewals[:]...),
		"unknown-price":  words("refuse", "count_only"),
		"methods":        words("GET", "POST", "PUT", "PATCH", "DELETE"),
		"expires-in":     words("1h", "8h", "24h", "7d", "30d"),
		"created-before": words("1h", "24h", "7d", "30d"),
		"unused-for":     words("1h", "24h", "7d", "30d"),
		"idle-timeout":   words("1h", "24h", "7d"),
		"rate":           words("10/s", "60/m", "500/h"),
		"pass-env":       environmentNames,
	}
	files := []string{"config", "store", "anchor", "data"} // flags that name a file
	fileArgs := []string{"backup", "restore", "run", "leak", "audit verify", "audit export"}
	var walk func(cmd *cobra.Command, path string)
	walk = func(cmd *cobra.Command, path string) {
		for _, sub := range cmd.Commands() {
			walk(sub, strings.TrimSpace(path+" "+sub.Name()))
		}
		switch o, ok := arguments[path]; {
		case cmd.ValidArgsFunction != nil || slices.Contains(fileArgs, path):
		case ok:
			cmd.ValidArgsFunction = c.function(o)
		default:
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
			function := cobra.NoFileCompletions
			switch o, ok := flags[flag.Name]; {
			case slices.Contains(files, flag.Name):
				return
			case ok:
				function = c.function(o)
			}
			// It fails for flags that do not exist, and for flags that have a
			// function already, which they keep.
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, function)
		})
	}
	walk(parent, "")
}

// function turns an offer into the form that cobra expects.
func (c completer) function(o offer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, begins string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeWithin)
		defer cancel()
		// In a list, only the last part is being completed: openai,anth
		done, part := "", begins
		if i := strings.LastIndexByte(begins, ','); i >= 0 {
			done, part = begins[:i+1], begins[i+1:]
		}
		var list []string
		for _, w := range o(ctx, part) {
			word, _, _ := strings.Cut(w, "\t")
			// Bash runs a $(…) in an offered word as soon as Tab is pressed.
			if word == clients.Quote(word) && strings.HasPrefix(word, part) && !slices.Contains(given, word) {
				list = append(list, done+w)
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

func words[Word ~string](of ...Word) offer {
	return func(context.Context, string) (list []string) {
		for _, word := range of {
			list = append(list, string(word))
		}
		return list
	}
}

// models offers the models that have a built-in price.
func models(context.Context, string) (list []string) {
	for _, p := range upstream.BuiltInPrices().At(time.Now()) {
		list = append(list, p.Model+"\t"+p.Provider)
	}
	return list
}

func environmentNames(context.Context, string) (list []string) {
	for _, line := range os.Environ() {
		name, _, _ := strings.Cut(line, "=")
		list = append(list, name)
	}
	return list
}

// keys offers keys by name. It offers the id instead if the name is not a plain
// word, or if an id is being typed.
func (c completer) keys(status record.Status) offer {
	return func(ctx context.Context, begins string) []string {
		if isSecret(begins) {
			return nil
		}
		query := url.Values{}
		if status != "" {
			query.Set("status", string(status))
		}
		if begins != "" {
			query.Set("q", begins)
		}
		s, err := c.client()
		if err != nil {
			return nil // nothing can be offered
		}
		keys, _, err := s.all(ctx, query, completeKeys)
		if err != nil {
			return nil
		}
		named := make(map[string]int)
		for _, k := range keys {
			named[k.Name]++
		}
		var list []string
		for _, k := range keys { // a name that two keys have would be refused
			if k.Name != "" && named[k.Name] == 1 && k.Name == clients.Quote(k.Name) && !strings.HasPrefix(begins, "key_") {
				list = append(list, k.Name+"\t"+string(k.Status)+", for "+k.Upstream)
				continue
			}
			list = append(list, k.ID+"\t"+strings.TrimSpace(string(k.Status)+", for "+k.Upstream+" "+prose.Cut(k.Name, 30)))
		}
		return list
	}
}

// ended offers the keys that can be forgotten.
func (c completer) ended(ctx context.Context, begins string) (list []string) {
	for _, status := range ended {
		list = append(list, c.keys(status)(ctx, begins)...)
	}
	return list
}

func (c completer) upstreams(ctx context.Context, _ string) (list []string) {
	var answer wire.UpstreamsAnswer
	if s, err := c.client(); err != nil || s.call(ctx, "GET", "/upstreams", nil, &answer) != nil {
		return nil
	}
	for _, u := range answer.Upstreams {
		list = append(list, u.Name+"\t"+strings.Join(u.Origins, " "))
	}
	return list
}

func (c completer) roles(ctx context.Context, _ string) (list []string) {
	var answer wire.RolesAnswer
	if s, err := c.client(); err != nil || s.call(ctx, "GET", "/roles", nil, &answer) != nil {
		return nil
	}
	for _, r := range answer.Roles {
		list = append(list, r.Name)
	}
	return list
}

func (c completer) tokens(ctx context.Context, _ string) (list []string) {
	s, err := c.client()
	if err != nil {
		return nil
	}
	all, err := s.tokens(ctx)
	if err != nil {
		return nil
	}
	for _, t := range all {
		switch {
		case t.Status != record.Active:
		case t.Name == clients.Quote(t.Name):
			list = append(list, t.Name+"\t"+t.Role)
		default:
			list = append(list, t.ID+"\t"+t.Role+" "+prose.Cut(t.Name, 30))
		}
	}
	return list
}
