package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestABackupIsNotRestoredIntoADatabase(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "caddy.json")
	if err := os.WriteFile(config, []byte(`{"apps":{"till":{"store":{"module":"postgres","dsn":"{env.TILL_DATABASE_URL}"}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := till(t, "restore", "till.bak", "--config", config); got.code != 1 || !strings.Contains(got.err, "pg_restore") {
		t.Errorf("%d, %q", got.code, got.err)
	}
}

func TestAMigrationNamesWhatIsWrongWithItsPlaces(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-pa55"
	for _, test := range []struct{ from, to, want string }{
		{"badger:", "postgres:{env.X}", "--from is badger:PATH or postgres:DSN"},
		{"badger:/a", "redis:x", "--to is badger:PATH or postgres:DSN"},
		{"badger:/a", "badger:/b", "goes from badger to postgres, or back"},
		{"badger:/none/such", "postgres:{env.TILL_TEST_NO_SUCH_VARIABLE}", "TILL_TEST_NO_SUCH_VARIABLE"},
		{"badger:/none/such", "postgres://till:" + secret + "@127.0.0.1:1/till", "the source: "},
		{"postgres://till:" + secret + "@127.0.0.1:1/till", "badger:" + t.TempDir(), "the source: "},
	} {
		got := till(t, "migrate", "--from", test.from, "--to", test.to)
		if got.code == 0 || !strings.Contains(got.err, test.want) || strings.Contains(got.err+got.out, secret) {
			t.Errorf("from %q to %q: %d, %q", test.from, test.to, got.code, got.err)
		}
	}
}

// TestAMigrationNamesTheUpstreamsThatPassedABound: their record stays behind.
func TestAMigrationNamesTheUpstreamsThatPassedABound(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "contradictions")
	for content, want := range map[string]string{
		"": "", "[]": "", `[{"upstream":"openai","option":"input_extra"}]`: "upstream openai has passed its bound", `[{"upstream":"strict","option":"ask_usage"}]`: "set ask_usage off",
		"{": "cannot be read from " + file, // and all was copied
	} {
		if content != "" {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var notes strings.Builder
		if noteContradictions(&notes, file); (notes.Len() > 0) != (want != "") || !strings.Contains(notes.String(), want) {
			t.Errorf("%s: %q", content, notes.String())
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
	}
}
