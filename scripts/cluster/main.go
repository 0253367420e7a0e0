// Command cluster shows one budget over two servers: it starts a PostgreSQL and two
// nodes in a temporary directory, mints a key, and spends it over both. Ctrl-C ends all
// of it and leaves nothing behind.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, len(os.Args) > 1 && os.Args[1] == "once"); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// budget is the limit of the key that is spent.
const budget = 20

// run spends one budget over two nodes, and then stays until it is interrupted, unless
// once is set.
func run(ctx context.Context, once bool) (err error) {
	dir, err := os.MkdirTemp("", "till-cluster")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Println("Building Caddy …")
	binary := filepath.Join(dir, "caddy")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/caddy").CombinedOutput(); err != nil {
		return fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	fmt.Println("Starting PostgreSQL …")
	database, err := postgrestest.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Remove()) }()
	var nodes []*node
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.end())
		}
	}()
	for _, name := range []string{"till-1", "till-2"} {
		n, err := start(ctx, dir, binary, name, database.DSN())
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
		fmt.Printf("%s serves keys at http://%s, and is managed with: TILL_ADDRESS=%s caddy till …\n", name, n.keys, n.admin)
	}
	key, err := nodes[0].mint(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nA key of %d activations, minted on till-1:\n", budget)
	used, refused := 0, ""
	for i := 0; refused == ""; i++ {
		n := nodes[i%len(nodes)]
		status, code, err := n.use(ctx, key)
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			used++
			fmt.Printf("  %s admits request %d\n", n.name, used)
		case status == http.StatusTooManyRequests: // the other node gives back what it does not need
		default:
			refused = fmt.Sprintf("%d %s", status, code)
			fmt.Printf("  %s refuses the next one: %s\n", n.name, refused)
		}
	}
	fmt.Printf("%d of %d were admitted, on both together.\n\n", used, budget)
	if used != budget {
		return fmt.Errorf("%d requests of %d were admitted", used, budget)
	}
	out, err := nodes[1].command("till", "stats").CombinedOutput()
	if err != nil {
		return fmt.Errorf("caddy till stats: %w\n%s", err, out)
	}
	fmt.Printf("TILL_ADDRESS=%s caddy till stats\n%s", nodes[1].admin, out)
	if !once {
		fmt.Println("\nStop with Ctrl-C")
		<-ctx.Done()
	}
	return nil
}

// node is a server that shares the database.
type node struct {
	name, dir, binary string
	admin, keys       string // addresses
	process           *exec.Cmd
	log               *os.File
}

// config serves keys for an upstream that answers with what it was asked.
const config = `{
	admin %[1]s
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	till {
		store postgres {env.TILL_DATABASE_URL} {
			node %[2]s
		}
		seal_key {env.SEAL_KEY}
		upstream echo openai {
			to unix/%[3]s
			credential {env.ECHO_KEY}
		}
	}
}
http://%[4]s {
	till
}
`

// echo is the upstream, which the first node serves.
const echo = `http://echo.localhost {
	bind unix/%s|0600
	till_echo
}
`

func start(ctx context.Context, dir, binary, name, dsn string) (_ *node, err error) {
	n := &node{name: name, dir: filepath.Join(dir, name), binary: binary}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		return nil, err
	}
	for _, address := range []*string{&n.admin, &n.keys} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*address = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(n.dir, "Caddyfile")
	socket := filepath.Join(dir, "echo.sock")
	text := fmt.Sprintf(config, n.admin, name, socket, n.keys)
	if _, err := os.Stat(socket); err != nil {
		text += fmt.Sprintf(echo, socket)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if n.log, err = os.Create(filepath.Join(n.dir, "log")); err != nil {
		return nil, err
	}
	n.process = n.command("run", "--config", file)
	n.process.Env = append(n.process.Env, "TILL_DATABASE_URL="+dsn, "ECHO_KEY=sk-echo-0123456789", "SEAL_KEY="+strings.Repeat("00", 32))
	n.process.Stdout, n.process.Stderr = n.log, n.log
	if err := n.process.Start(); err != nil {
		return nil, errors.Join(err, n.log.Close())
	}
	for {
		status, answer, err := n.ask(ctx, "GET", "http://"+n.admin+"/till/ready", "", nil)
		if err == nil && status == http.StatusOK {
			return n, nil
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(n.log.Name())
			return nil, errors.Join(fmt.Errorf("%s does not serve: %s%w\n%s", name, answer, errors.Join(err, ctx.Err()), said), n.end())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// command is Caddy in the node's directory. It is not interrupted with this program,
// which ends it itself.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := exec.Command(n.binary, args...)
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), "HOME="+n.dir, "XDG_DATA_HOME="+n.dir, "XDG_CONFIG_HOME="+n.dir, "TILL_ADDRESS="+n.admin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// end stops the node as an operator does, so that it gives back what it had reserved.
func (n *node) end() error {
	err := n.process.Process.Signal(syscall.SIGTERM)
	return errors.Join(err, n.process.Wait(), n.log.Close())
}

func (n *node) ask(ctx context.Context, method, url, key string, body []byte) (status int, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close() //nolint:errcheck // it is only read
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

func (n *node) mint(ctx context.Context) (string, error) {
	status, answer, err := n.ask(ctx, "POST", "http://"+n.admin+"/till/keys", "", fmt.Appendf(nil, `{"upstream":"echo","max_activations":%d}`, budget))
	var minted struct {
		Key string `json:"scoped_key"`
	}
	if err == nil {
		err = json.Unmarshal(answer, &minted)
	}
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("minting a key: %d %s", status, answer)
	}
	return minted.Key, err
}

func (n *node) use(ctx context.Context, key string) (status int, code string, err error) {
	body := []byte(`{"model":"echo","messages":[{"role":"user","content":"hi"}]}`)
	status, answer, err := n.ask(ctx, "POST", "http://"+n.keys+"/v1/chat/completions", key, body)
	var refusal struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if err == nil && status != http.StatusOK {
		err = json.Unmarshal(answer, &refusal)
	}
	return status, refusal.Error.Code, err
}
