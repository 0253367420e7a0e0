package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// These are for supervisors and scripts. Unlike wget and curl they find the server as all
// commands do, even where its admin endpoint is a socket.

func liveCommand(f *globalFlags) *cobra.Command {
	return probeCommand(f, "live", "Says whether the server is up, for a supervisor",
		`Exits with 0 as long as the server answers, whatever is wrong with its store,
and with 1 if it should be restarted. The image's HEALTHCHECK runs it.`)
}

func readyCommand(f *globalFlags) *cobra.Command {
	return probeCommand(f, "ready", "Says whether the server admits requests now",
		`Exits with 0 while keys are admitted, and with 1 and the reason while they are
not, as when the store is in doubt. A restart does not help against that.`)
}

// probeCommand asks a question that is answered with one line.
func probeCommand(f *globalFlags, question, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: question, Short: short, Long: long, Example: "  caddy till " + question, Args: argCount(0, 0, ""),
		RunE: f.calling(func(cmd *cobra.Command, c *client, _ []string) error {
			res, err := c.do(cmd.Context(), http.MethodGet, "/"+question, nil)
			if err != nil {
				return err
			}
			defer res.Body.Close() //nolint:errcheck // it was only read
			said, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
			line := printable(strings.TrimSpace(string(said)))
			switch {
			case err != nil:
				return fmt.Errorf("reading the answer of %s: %w", c.where, err)
			case res.StatusCode == http.StatusServiceUnavailable && strings.HasPrefix(line, "not "+question):
				return errors.New(line)
			case res.StatusCode != http.StatusOK || line != question:
				return c.refusal(res, said)
			case f.json:
				return printValue(cmd.OutOrStdout(), map[string]bool{question: true})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		}),
	}
}
