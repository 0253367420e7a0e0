//go:build unix

package till

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
)

// TestDoctorFindsWhatAnotherUserOwns: whoever owns a file or a directory above it can
// change it, whatever the mode says. Only root and the user of the server may.
func TestDoctorFindsWhatAnotherUserOwns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	const (
		stranger = 54321
		all      = "all" // of a server that runs as that user
	)
	site := strings.Replace(soundSite, "store badger DIR/store", "store badger DIR/store\nanchor DIR/anchors/anchor\nprices DIR/prices/prices.json\nwebhook https://ops.example.com {\nsecret {file.DIR/hooks/hook}\n}", 1)
	for _, test := range []struct{ owned, what string }{
		{"", ""}, {all, ""},
		{"secrets/mock", "the credential of upstream mock"}, {"secrets/seal", "the seal key"}, {"hooks/hook", "the secret of a webhook"},
		{"anchors/anchor", "the anchor"}, {"prices/prices.json", "the file of prices"},
		{"secrets", "the seal key"}, {"hooks", "the secret of a webhook"}, {"anchors", "the anchor"}, {"prices", "the file of prices"}, {".", "the store"},
	} {
		t.Run(test.owned, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"secrets", "store", "hooks", "anchors", "prices"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			file(t, dir+"/secrets/mock", "sk-mock", 0o600)
			file(t, dir+"/secrets/seal", strings.Repeat("5e", 32), 0o600)
			file(t, dir+"/hooks/hook", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", 0o600)
			file(t, dir+"/prices/prices.json", `{"schema":"till.prices/1","models":[]}`, 0o644)
			file(t, dir+"/anchors/anchor", "", 0o600)
			if test.owned == all {
				if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
					return errors.Join(err, os.Chown(path, stranger, -1))
				}); err != nil {
					t.Fatal(err)
				}
			} else if test.owned != "" {
				if err := os.Chown(filepath.Join(dir, test.owned), stranger, -1); err != nil {
					t.Fatal(err)
				}
			}
			found := slices.DeleteFunc(diagnosed(t, strings.ReplaceAll(site, "DIR", dir)), func(f wire.Finding) bool { return f.Check != "writable_file" })
			if test.owned == "" || test.owned == all {
				if len(found) > 0 {
					t.Errorf("of sound files it says %+v", found)
				}
				return
			}
			of := filepath.Join(dir, test.owned)
			if !slices.ContainsFunc(found, func(f wire.Finding) bool {
				return f.Level == wire.LevelError && strings.Contains(f.What, of) && strings.Contains(f.What, test.what) && strings.Contains(f.What, "54321") && strings.HasPrefix(f.Fix, "chown ") && strings.HasSuffix(f.Fix, " "+of)
			}) {
				t.Errorf("it says %+v", found)
			}
		})
	}
}
