package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// leakFinding is one place where a string was found, as --json prints it.
type leakFinding struct {
	Place string `json:"place"`
	wire.LeakMatch
}

type leakReport struct {
	Found    int           `json:"found"`
	Revoked  []string      `json:"revoked"`
	Unknown  int           `json:"unknown"`
	Failed   int           `json:"failed,omitempty"`
	Findings []leakFinding `json:"findings"`
	Files    int64         `json:"files"`
	Skipped  int64         `json:"skipped"`
	DryRun   bool          `json:"dry_run,omitempty"`
	// Made are the tokens that were made with those found, and that still work.
	Made []wire.MadeToken `json:"made_tokens,omitempty"`
	// Pending names the nodes that have not yet followed.
	Pending []string `json:"pending,omitempty"`
}

func leakCommand(f *globalFlags) *cobra.Command {
	var dryRun, binary, offline bool
	cmd := &cobra.Command{
		Use:   "leak FILE|DIR|-...",
		Short: "Finds keys and admin tokens in files, and revokes them",
		Long: `Finds the strings of keys and admin tokens in files, directories or standard
input, and revokes what they belong to. It also finds strings that are
percent-encoded, escaped, in base64, in UTF-16, or broken over lines as in diffs
and mails. It sends only the strings that were found to the server, and prints
only their beginnings.

In a diff, the place is the one in the file that the diff is about. A string
that a rotation has replaced does not end its key; only its grace ends. Strings
that are not in this server's store are unknown; they are not damaged, because
their checksums are right.

Directories are searched without following links, without .git/objects, and
without binary files.`,
		Example: `  caddy till leak notebook.ipynb
  caddy till leak ~/src --dry-run
  git log -p --all | caddy till leak -
  pbpaste | caddy till leak - --json | jq .revoked`,
		Args: argCount(1, 0, "files or directories; - is standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := &search{binary: binary, progress: showProgress(cmd.ErrOrStderr(), "Searching", inBytes)}
			defer s.progress.end()
			var warnings []string
			s.warn = func(format string, args ...any) { warnings = append(warnings, printable(fmt.Sprintf(format, args...))) }
			for _, arg := range args {
				if isSecret(arg) {
					return usage("that is the string of a key or token, and other processes can see arguments: give it on standard input, caddy till leak -")
				}
				if err := s.argument(arg, cmd.InOrStdin()); err != nil {
					return fmt.Errorf("nothing was revoked: %w", err)
				}
			}
			s.progress.end()
			for _, w := range warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), w)
			}
			report, err := s.report(cmd.Context(), f, dryRun, offline)
			if f.json {
				err = errors.Join(printValue(cmd.OutOrStdout(), report), err)
			} else {
				err = errors.Join(report.print(cmd.OutOrStdout()), err)
			}
			if s.failed > 0 {
				err = errors.Join(err, fmt.Errorf("%s could not be searched", prose.Counted(s.failed, "file")))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be revoked, and revoke nothing")
	cmd.Flags().BoolVar(&offline, "offline", false, "only find strings, without asking a server about them")
	cmd.Flags().BoolVar(&binary, "binary", false, "search binary files, too")
	return cmd
}

func (s *search) argument(arg string, in io.Reader) error {
	if arg == "-" {
		return s.stream("-", in)
	}
	info, err := os.Stat(arg)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return s.tree(arg)
	}
	return s.file(arg, true)
}

// leakBatch is how many strings are sent in one call.
const leakBatch = 1000

// report has the server revoke what was found, and reports what became of each string.
func (s *search) report(ctx context.Context, f *globalFlags, dryRun, offline bool) (*leakReport, error) {
	r := &leakReport{Revoked: []string{}, Findings: []leakFinding{}, Files: s.files, Skipped: s.skipped, DryRun: dryRun}
	var texts []token.Leak
	results := make(map[token.Lookup]wire.LeakMatch)
	for _, p := range s.places {
		if _, known := results[p.leak.Lookup]; !known {
			results[p.leak.Lookup] = wire.LeakMatch{Hint: p.leak.Hint()}
			texts = append(texts, p.leak)
		}
	}
	r.Found = len(texts)
	var failed error
	if len(texts) > 0 && !offline {
		failed = r.ask(ctx, f, texts, dryRun, results)
	}
	for _, p := range s.places {
		r.Findings = append(r.Findings, leakFinding{p.where, results[p.leak.Lookup]})
	}
	return r, failed
}

func (r *leakReport) ask(ctx context.Context, f *globalFlags, texts []token.Leak, dryRun bool, results map[token.Lookup]wire.LeakMatch) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	var failed error
	for len(texts) > 0 {
		n := min(len(texts), leakBatch)
		answer, err := c.leaks(ctx, texts[:n], dryRun)
		failed = cmp.Or(failed, err)
		for i, match := range answer.Matches {
			results[texts[i].Lookup] = match
			if match.State == limiter.LeakFailed {
				r.Failed++
			}
		}
		r.Revoked = append(r.Revoked, answer.Revoked...)
		r.Unknown += answer.Unknown
		for _, t := range answer.Made {
			if !slices.Contains(r.Made, t) { // with a string of another call
				r.Made = append(r.Made, t)
			}
		}
		r.Pending = answer.Pending // of the last call, which has waited for the changes of all calls
		texts = texts[n:]
		if err != nil && answer.Error == nil { // nothing says that the next call would do better
			break
		}
	}
	return failed
}

// leaks sends some strings. With an error, strings that are not known to have been revoked
// are among the matches as failed; if the server itself has answered about a part of them,
// Error is set.
func (c *client) leaks(ctx context.Context, texts []token.Leak, dryRun bool) (answer wire.LeaksAnswer, err error) {
	var lines strings.Builder
	for _, l := range texts {
		lines.WriteString(l.Text.Reveal() + " ~\n") // so that two strings are never read as one
	}
	err = c.call(ctx, "POST", "/leaks", wire.LeaksBody{Text: lines.String(), DryRun: dryRun}, &answer)
	if refused, ok := errors.AsType[*apiError](err); ok {
		if wrong := decodePrintable(refused.body, &answer); wrong != nil {
			answer = wire.LeaksAnswer{}
		}
	}
	if len(answer.Matches) == len(texts) {
		return answer, err
	}
	if err == nil {
		err = fmt.Errorf("the server found %d of %s; is it of this version?", len(answer.Matches), prose.Counted(int64(len(texts)), "string"))
	}
	answer = wire.LeaksAnswer{}
	for _, l := range texts {
		answer.Matches = append(answer.Matches, wire.LeakMatch{Hint: l.Hint(), State: limiter.LeakFailed, Error: "the server did not say; run this again"})
	}
	return answer, err
}

var states = map[limiter.LeakState]string{
	limiter.LeakRevoked:    "revoked",
	limiter.LeakGraceEnded: "rotated before; the old string still had a grace, which has ended now",
	limiter.LeakDead:       "no longer works",
	limiter.LeakUnknown:    "unknown here",
	limiter.LeakFailed:     "NOT REVOKED",
	"":                     "not asked about",
}

func (r *leakReport) print(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		state := states[f.State]
		if r.DryRun && (f.State == limiter.LeakRevoked || f.State == limiter.LeakGraceEnded) {
			state = "works"
		}
		fmt.Fprintf(&b, "%s  %s", printable(f.Place), f.Hint)
		if f.ID != "" {
			fmt.Fprintf(&b, "  %s", f.ID)
		}
		if f.Name != "" {
			fmt.Fprintf(&b, " (%s)", prose.Cut(f.Name, 32))
		}
		if f.Error != "" {
			state += ": " + f.Error
		}
		fmt.Fprintf(&b, "  %s\n", state)
	}
	fmt.Fprintf(&b, "%s in %s", cmp.Or(map[int]string{0: "No key was found"}[r.Found], "Found "+prose.Counted(int64(r.Found), "string")), prose.Counted(r.Files, "file"))
	if r.Skipped > 0 {
		fmt.Fprintf(&b, ", %s skipped", prose.Counted(r.Skipped, "binary file"))
	}
	if r.Found > 0 {
		fmt.Fprintf(&b, "; %d revoked, %d unknown", len(r.Revoked), r.Unknown)
		if r.Failed > 0 {
			fmt.Fprintf(&b, ", %d not revoked", r.Failed)
		}
	}
	b.WriteString("." + pendingText("\n", r.Pending) + "\n" + madeText("those found", r.Made))
	_, err := io.WriteString(w, b.String())
	return err
}
