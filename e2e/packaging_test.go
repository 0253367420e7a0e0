package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTheImageIsSmallAndUnprivileged reads the Dockerfile; `make package` runs
// what it builds.
func TestTheImageIsSmallAndUnprivileged(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../xcaddy.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	froms := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(text, -1)
	if len(froms) != 2 {
		t.Fatalf("%d stages, want 2", len(froms))
	}
	for _, from := range froms {
		if !regexp.MustCompile(`^[a-z]+:[0-9]+\.[0-9]`).MatchString(from[1]) {
			t.Errorf("image %s is not pinned", from[1])
		}
	}
	if !strings.Contains(text, "RUN ./scripts/package.sh ") {
		t.Error("the image is not built by the script that make package runs")
	}
	_, last, _ := strings.Cut(text, "\nFROM "+froms[1][1])
	for _, want := range []string{"\nUSER caddy\n", "\nVOLUME /data /config /var/lib/till\n", "\nHEALTHCHECK ", "XDG_DATA_HOME=/data", "-m 0700 /data /config /var/lib/till", "443/udp"} {
		if !strings.Contains(last, want) {
			t.Errorf("the image lacks %q", want)
		}
	}
	if strings.Contains(last, "COPY . ") || strings.LastIndex(last, "\nUSER ") < strings.LastIndex(last, "\nRUN ") {
		t.Error("the last stage holds the sources, or runs as root")
	}
}
