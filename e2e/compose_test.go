package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// compose is what docs/cluster.md has of Docker's format.
type compose struct {
	Services map[string]struct {
		Image       string
		Hostname    string
		Environment map[string]string
		Secrets     []string
		Volumes     []string
		DependsOn   []string `yaml:"depends_on"`
		StopGrace   string   `yaml:"stop_grace_period"`
		Configs     []struct{ Source, Target string }
		Ports       []string
	}
	Configs map[string]struct{ Content string }
	Secrets map[string]struct{ File string }
	Volumes map[string]struct{}
}

// TestTheComposeFileIsTrue compares the compose file in docs/cluster.md with the Caddyfile
// beside it and with the image, and runs both Caddyfiles in it: two nodes behind the
// balancer. What it cannot show is that Docker starts them.
func TestTheComposeFileIsTrue(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	page, err := os.ReadFile("../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile("../xcaddy.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		t.Helper()
		all := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(page), -1)
		if len(all) != 1 {
			t.Fatalf("the page has %d blocks of %s, want one", len(all), language)
		}
		return all[0][1]
	}
	caddyfile := block("caddyfile")
	var c compose
	d := yaml.NewDecoder(strings.NewReader(block("yaml")))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for name, s := range c.Services {
		for _, secret := range s.Secrets {
			if c.Secrets[secret].File == "" {
				t.Errorf("%s: there is no secret %s", name, secret)
			}
		}
		for _, volume := range s.Volumes {
			if from, _, _ := strings.Cut(volume, ":"); !strings.HasPrefix(from, "./") {
				if _, ok := c.Volumes[from]; !ok {
					t.Errorf("%s: there is no volume %s", name, from)
				}
			}
		}
		for _, other := range s.DependsOn {
			if _, ok := c.Services[other]; !ok {
				t.Errorf("%s: there is no service %s", name, other)
			}
		}
		for _, config := range s.Configs {
			if c.Configs[config.Source].Content == "" {
				t.Errorf("%s: there is no config %s", name, config.Source)
			}
		}
		if s.Image != "till" {
			continue
		}
		nodes = append(nodes, name)
		if s.Hostname != name || s.Environment["NODE"] != name || !slices.Contains(s.Volumes, name+":/data") {
			t.Errorf("%s: hostname %s, NODE %s, and the volumes %v, want its own of each", name, s.Hostname, s.Environment["NODE"], s.Volumes)
		}
		if !slices.Contains(s.Volumes, "./Caddyfile:/etc/caddy/Caddyfile:ro") || !bytes.Contains(image, []byte(`"--config", "/etc/caddy/Caddyfile"`)) {
			t.Errorf("%s: the image does not read the Caddyfile of %v", name, s.Volumes)
		}
		for _, m := range regexp.MustCompile(`{file\./run/secrets/(\w+)}`).FindAllStringSubmatch(caddyfile, -1) {
			if !slices.Contains(s.Secrets, m[1]) {
				t.Errorf("%s does not have the secret %s", name, m[1])
			}
		}
	}
	slices.Sort(nodes)
	if len(nodes) != 2 || !bytes.Contains(image, []byte("-t till .")) || !bytes.Contains(image, []byte("XDG_DATA_HOME=/data")) || !bytes.Contains(image, []byte("-u 10001")) {
		t.Fatalf("the nodes are %v", nodes)
	}
	balancer := c.Configs["balancer"].Content
	database := c.Services["database"]
	address := "postgres://" + database.Environment["POSTGRES_USER"] + ":PASSWORD@database/" + database.Environment["POSTGRES_DB"]
	if !strings.Contains(string(page), "`"+address+"?") || database.Environment["POSTGRES_PASSWORD_FILE"] != "/run/secrets/"+database.Secrets[0] {
		t.Errorf("the page does not name the database's address %s, or it has another password", address)
	}

	// From here on each has an address of this machine instead of a name, and its files.
	replace := func(text *string, old, new string) {
		t.Helper()
		if !strings.Contains(*text, old) {
			t.Fatalf("%q does not stand in\n%s", old, *text)
		}
		*text = strings.ReplaceAll(*text, old, new)
	}
	secrets := t.TempDir()
	for name, text := range map[string]string{
		"database": postgrestest.Start(t).DSN(), "openai": realKey, "seal_key": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	upstream := upstreamtest.Start(t, upstreamtest.OpenAI, realKey)
	process := func(addr, text, env string) *server {
		s := &server{
			t: t, dir: t.TempDir(), admin: freePort(t), addr: addr, log: new(bytes.Buffer), env: env, binary: caddyBinary, upstream: upstream,
			client: &http.Client{Timeout: patience}, shared: true,
		}
		s.config = filepath.Join(s.dir, "Caddyfile")
		s.write(text)
		t.Cleanup(s.stop)
		t.Cleanup(s.client.CloseIdleConnections)
		return s
	}
	_, served, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	_, console, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	var running []*server
	for i, name := range nodes {
		host, text := fmt.Sprintf("127.0.0.%d", i+1), caddyfile // the balancer asks both at one port
		replace(&text, "/run/secrets", secrets)
		replace(&text, "\n:8080 {", "\nhttp://:"+served+" {\n\tbind "+host)
		replace(&text, "\n:8081 {", "\nhttp://:"+console+" {\n\tbind "+host)
		replace(&text, "upstream openai {", "upstream openai {\n\t\t\tto "+upstream.URL)
		s := process(net.JoinHostPort(host, served), text, "NODE="+c.Services[name].Environment["NODE"])
		replace(&text, "{\n\tgrace_period ", "{\n\tadmin "+s.admin+"\n\tpersist_config off\n\tgrace_period ")
		s.write(text)
		s.start()
		s.isReady()
		running = append(running, s)
		replace(&balancer, name+":8080", s.addr)
	}
	site := freePort(t)
	replace(&balancer, "agents.example.com", "http://"+site)
	replace(&balancer, "health_port 8081", "health_port "+console)
	b := process(site, "", "")
	b.write("{\n\tadmin " + b.admin + "\n\tpersist_config off\n}\n" + balancer)
	b.launch()

	id, key := running[0].mint(object{"max_activations": 1000, "upstream": "openai"})
	used := int64(0)
	uses := func(times int) func() bool { // in a row
		return func() bool {
			for range times {
				if b.chat(key) != http.StatusOK {
					return false
				}
				used++
			}
			return true
		}
	}
	b.eventually("the balancer sends requests to the nodes", uses(10))
	running[1].stop()
	b.eventually("it sends them to the node that is ready", uses(10))
	running[1].start()
	running[1].isReady()
	running[0].stop()
	b.eventually("it sends them to the other one", uses(10))
	if n := running[1].used(id); n != used || upstream.Count() != used {
		t.Errorf("%d requests were used, and %d forwarded, want %d", n, upstream.Count(), used)
	}
}
