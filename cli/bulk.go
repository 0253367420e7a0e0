package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// bulk is revoke --all.
type bulk struct {
	picking
	all, dryRun, yes bool
	except           []string
}

func (b *bulk) flags(f *pflag.FlagSet) {
	f.BoolVar(&b.all, "all", false, "revoke every key that matches these flags:")
	b.picking.flags(f, "with --all: ")
	revocable := slices.DeleteFunc(slices.Clone(record.Statuses[:]), func(s record.Status) bool { return s == record.Revoked })
	f.Lookup("status").Usage = "with --all: " + record.Either(revocable)
	f.StringSliceVar(&b.except, "except", nil, "with --all: leave out this key, by its id or full name; repeatable, up to 1,000 times")
	f.BoolVar(&b.dryRun, "dry-run", false, "with --all: only say how many keys match")
	f.BoolVar(&b.yes, "yes", false, "with --all: do not ask first")
}

func (b *bulk) given(f *pflag.FlagSet) string {
	for _, name := range append(slices.Sorted(maps.Keys(filterFlags)), "label", "except", "dry-run", "yes") {
		if f.Changed(name) {
			return name
		}
	}
	return ""
}

func (b *bulk) run(cmd *cobra.Command, f *globalFlags, reason string) error {
	filter, err := b.filter()
	if err != nil {
		return err
	}
	ask := map[string]any{"dry_run": true}
	if len(filter) > 0 {
		ask["filter"] = filter
	} else {
		ask["all"] = true
	}
	c, err := f.client()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if err := c.resolve(ctx, filter); err != nil {
		return err
	}
	var except []string
	for _, name := range b.except {
		k, err := c.find(ctx, name, exactly)
		if err != nil {
			return fmt.Errorf("--except: %w", err)
		}
		except = append(except, k.ID)
	}
	if except != nil {
		ask["except"] = except
	}
	c.http.Timeout = 0 // counting and revoking many keys takes long
	p := showProgress(cmd.ErrOrStderr(), "Counting", inKeys)
	defer p.end()
	var found wire.BulkJSON
	raw, err := c.answer(ctx, "POST", "/keys/revoke", ask, &found)
	if err != nil {
		return err
	}
	p.end()
	left := found.Matched - found.AlreadyRevoked
	before := ""
	if found.At != nil { // older servers do not say it, and know no such filter
		before = found.At.Format(time.RFC3339Nano)
	}
	if b.dryRun || left == 0 && !b.yes { // with --yes, keys that were too young to be counted end as well
		if f.json {
			return printJSON(cmd.OutOrStdout(), raw)
		}
		text := fmt.Sprintf("%s would be revoked%s.\n", keysOf(left), alreadyOf(found))
		if left > 0 && before != "" {
			text += "To leave out what is minted from now on, add:\n  --created-before " + before + "\n"
		}
		_, err := io.WriteString(cmd.OutOrStdout(), text)
		return err
	}
	ask = maps.Clone(ask)
	delete(ask, "dry_run")
	if !b.yes {
		if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), left, before); err != nil {
			return err
		}
		if before != "" { // the confirmation is about these keys alone
			delete(ask, "all")
			filter["created_before"] = before
			ask["filter"] = filter
		}
	}
	ask["reason"], ask["wait"] = reason, false
	var now wire.BulkJSON
	if raw, err = c.raw(ctx, "POST", "/keys/revoke", ask); err != nil {
		return err
	}
	p = showProgress(cmd.ErrOrStderr(), "Revoking", inKeys)
	defer p.end()
	p.of(left)
	var pending []string
	for {
		now = wire.BulkJSON{}
		if err := c.decoded(decodePrintable(raw, &now), &now); err != nil {
			return err
		}
		pending = append(pending, now.Pending...) // only the first answer has them
		p.set(now.Revoked)
		if now.Done == nil || *now.Done || now.Unreadable > 0 {
			break
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("%w; the keys are refused already, and job %s goes on", err, now.Job)
		}
		if raw, err = c.raw(ctx, "GET", "/jobs/"+url.PathEscape(now.Job), nil); err != nil {
			return fmt.Errorf("the keys are refused already, and job %s goes on: %w", now.Job, err)
		}
	}
	p.end()
	switch now.Pending = pending; {
	case f.json && len(pending) > 0:
		err = printValue(cmd.OutOrStdout(), now)
	case f.json:
		err = printJSON(cmd.OutOrStdout(), raw)
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "Revoked %s%s, and ended %s.%s\n",
			keysOf(now.Revoked), alreadyOf(now), prose.Counted(int64(now.StreamsCut), "running request"), pendingText("\n", pending))
	}
	if err == nil && now.Unreadable > 0 {
		return fmt.Errorf("job %s goes on: %s", now.Job, now.Failure)
	}
	return err
}

func keysOf(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return humanize.Comma(n) + " keys"
}

func alreadyOf(b wire.BulkJSON) string {
	if b.AlreadyRevoked == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s had been revoked before)", humanize.Comma(b.AlreadyRevoked))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// confirm asks the user at the terminal to type how many keys are to be revoked.
func confirm(in io.Reader, out io.Writer, n int64, before string) error {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return usage("%s would be revoked for ever: say --yes, because nobody can be asked here", keysOf(n))
	}
	return confirmed(file, out, n, before)
}

// confirmed asks about the keys that were minted before a moment, if that is known.
func confirmed(in io.Reader, out io.Writer, n int64, before string) error {
	fmt.Fprintf(out, "%s will be revoked for ever", keysOf(n))
	if before != "" {
		fmt.Fprintf(out, ":\nthose that match now and were minted before %s.\nKeys that are minted later stay, unless they are children of these", before)
	}
	fmt.Fprint(out, ".\nType the number to go on: ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" {
		return fmt.Errorf("nothing was revoked: %w", err)
	}
	if got := strings.ReplaceAll(strings.TrimSpace(line), ",", ""); got != strconv.FormatInt(n, 10) {
		return fmt.Errorf("nothing was revoked: the number is %d", n)
	}
	return nil
}
