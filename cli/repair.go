package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func repairCommand(f *globalFlags) *cobra.Command {
	var forfeit, clock, dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "repair --forfeit | --clock",
		Short: "Opens a store in doubt, or trusts the clock again",
		Long: `A store that is older than what it had acknowledged (a restored backup, a
damaged disk, a lost anchor, a database after a failover that lost something)
stays closed, and every key is refused, on every server that shares it. First
look whether the newest store and its anchor, or the newest copy of the
database, can be put in place. If not, --forfeit counts the remaining budget of
every key as spent, suspends keys that have only a time limit or whose budget
renews, revokes every admin token, and opens the store; other servers that
share it go on by themselves. It says first what that would change, and asks.

Then grant what you want to allow again: caddy till grant KEY --activations 100,
caddy till resume KEY, caddy till token create. A key that was revoked in the
time that is lost is among the spent or suspended ones: revoke it once more
rather than granting to it. One that was rotated has its former string again:
rotate it once more before you grant to it or resume it.

If the machine's clock was set back, or had run ahead, till's time stands still
or goes on as before, so that no expired key comes back; caddy till stats says
so. Once the clock is right, --clock makes till trust it again.`,
		Example: `  caddy till stats
  caddy till repair --forfeit --dry-run
  caddy till repair --forfeit --yes`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case forfeit == clock:
				return usage("say what to repair: --forfeit, which spends every remaining budget, or --clock")
			case clock && (dryRun || yes):
				return usage("--dry-run and --yes go with --forfeit")
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			if clock {
				return f.repairClock(cmd, c)
			}
			return f.forfeit(cmd, c, dryRun, yes)
		},
	}
	cmd.Flags().BoolVar(&clock, "clock", false, "trust the machine's clock again")
	cmd.Flags().BoolVar(&forfeit, "forfeit", false, "count every remaining budget as spent")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "with --forfeit: only say what that would change")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --forfeit: do not ask first")
	return cmd
}

func (f *globalFlags) repairClock(cmd *cobra.Command, c *client) error {
	return callAndPrint(cmd, c, "POST", "/store/repair", map[string]bool{"clock": true}, func(done *wire.RepairedAnswer) error {
		if done.Now == nil {
			return c.without("a time")
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "It is %s.\n", done.Now.Format(time.RFC3339))
		return err
	})
}

func (f *globalFlags) forfeit(cmd *cobra.Command, c *client, dryRun, yes bool) error {
	if !yes {
		raw, would, err := postForfeit(cmd.Context(), cmd.ErrOrStderr(), c, "Counting", map[string]bool{"forfeit": true, "dry_run": true})
		switch {
		case err != nil:
			return err
		case dryRun && f.json:
			return printJSON(cmd.OutOrStdout(), raw)
		case dryRun:
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "A repair would leave %s.\n", forfeitText(would))
			return err
		}
		if err := confirmForfeit(cmd.InOrStdin(), cmd.ErrOrStderr(), would); err != nil {
			return err
		}
	}
	if dryRun {
		return usage("give only one of --dry-run and --yes")
	}
	raw, done, err := postForfeit(cmd.Context(), cmd.ErrOrStderr(), c, "Repairing", map[string]bool{"forfeit": true})
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), "The store is open: "+forfeitText(done)+".\n"+revokedTokensNote(*done.Tokens))
	return err
}

// postForfeit asks for a repair, or what it would do.
func postForfeit(ctx context.Context, notes io.Writer, c *client, what string, body map[string]bool) ([]byte, *wire.RepairedAnswer, error) {
	p := showProgress(notes, what, inKeys)
	done := new(wire.RepairedAnswer)
	raw, err := c.patient().answer(ctx, "POST", "/store/repair", body, done)
	p.end()
	for _, n := range []**int64{&done.Keys, &done.Forfeited, &done.Suspended, &done.Tokens} {
		*n = cmp.Or(*n, new(int64))
	}
	return raw, done, err
}

// forfeitText says what a repair did, or would do.
func forfeitText(r *wire.RepairedAnswer) string {
	return fmt.Sprintf("%s spent, %s suspended and %s revoked, of %s",
		prose.Counted(*r.Forfeited, "budget"), keysOf(*r.Suspended), prose.Counted(*r.Tokens, "admin token"), keysOf(*r.Keys))
}

// revokedTokensNote says how many admin tokens were revoked, and how to replace them.
func revokedTokensNote(n int64) string {
	if n == 0 {
		return ""
	}
	return "Revoked " + prose.Counted(n, "admin token") + ", because it is not known which were revoked before: caddy till token create\n"
}

// confirmForfeit asks the user at the terminal to type a word.
func confirmForfeit(in io.Reader, out io.Writer, would *wire.RepairedAnswer) error {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return usage("a repair would leave %s: say --yes, because nobody can be asked here", forfeitText(would))
	}
	return confirmedForfeit(file, out, would)
}

func confirmedForfeit(in io.Reader, out io.Writer, would *wire.RepairedAnswer) error {
	fmt.Fprintf(out, "A repair will leave %s. Type forfeit to go on: ", forfeitText(would))
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if strings.TrimSpace(line) != "forfeit" {
		return errors.New("nothing was changed: the word is forfeit")
	}
	return nil
}
