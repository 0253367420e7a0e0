package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// Many keys in a database are measured with the commands of an operator: each command
// is a process of its own, and so is the node that it asks.

// sharedKeys is a PostgreSQL with the keys, and what is known of it.
type sharedKeys struct {
	out    io.Writer
	dir    string
	server *postgrestest.Server
	conn   *pgconn.PgConn
}

const databaseRow = "%-38s %10s %12s %15s\n" // 80 columns

// runScaleDatabase moves that many keys into a database and back, and uses and repairs
// it in between.
func runScaleDatabase(out io.Writer, keys int) (err error) {
	dir, err := os.MkdirTemp("", "till-scale")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := buildCaddy(dir); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "mint")
	mint := exec.Command(os.Args[0], "-scale", strconv.Itoa(keys), "-scale-phase", "mint", "-scale-dir", dir)
	mint.Stderr = os.Stderr
	if err := mint.Run(); err != nil {
		return fmt.Errorf("mint: %w", err)
	}
	d := &sharedKeys{out: out, dir: dir}
	if d.server, err = postgrestest.New(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.server.Remove()) }()
	if d.conn, err = pgconn.Connect(context.Background(), d.server.DSN()); err != nil {
		return err
	}
	defer d.conn.Close(context.Background())
	fmt.Fprintf(out, databaseRow, fmt.Sprintf("%d keys", keys), "time", "memory", "transactions")
	const shared = "postgres:{env.BENCH_DSN}"
	if err := d.till("migrate into the database", nil, "migrate", "--from", "badger:"+filepath.Join(dir, "store"), "--to", shared); err != nil {
		return err
	}
	if err := d.use(); err != nil {
		return err
	}
	return d.till("migrate back", nil, "migrate", "--from", shared, "--to", "badger:"+filepath.Join(dir, "back"))
}

// use starts a node, verifies the audit log, and lets the node repair the database.
func (d *sharedKeys) use() (err error) {
	var node *side
	err = d.measure("start of a node, with its first mint", func() (string, error) {
		if node, err = startSide(d.dir, "till-node", "127.0.0.1:1", d.server.DSN(), "till"); err != nil {
			return "", err
		}
		return node.peak(), nil
	})
	if err != nil {
		return err
	}
	defer end(node.cmd)
	if err := d.till("audit verify", node, "audit", "verify"); err != nil {
		return err
	}
	// A node does the same when it finds that the database has lost what it had
	// acknowledged.
	if _, err := d.conn.Exec(context.Background(), "UPDATE till.state SET doubt = 'this benchmark says so'").ReadAll(); err != nil {
		return err
	}
	if err := node.untilReady(false); err != nil {
		return err
	}
	if err := d.till("repair --forfeit --dry-run", node, "repair", "--forfeit", "--dry-run"); err != nil {
		return err
	}
	return d.till("repair --forfeit", node, "repair", "--forfeit", "--yes")
}

// till measures a command, with the memory of the node that it asks; nil: with its own.
func (d *sharedKeys) till(name string, asks *side, args ...string) error {
	return d.measure(name, func() (string, error) {
		cmd := exec.Command(*binary, append([]string{"till"}, args...)...)
		cmd.Env = append(os.Environ(), "BENCH_DSN="+d.server.DSN())
		if asks != nil {
			cmd.Env = append(cmd.Env, "TILL_ADDRESS="+asks.admin)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		if asks != nil {
			return asks.peak(), nil
		}
		used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return "", nil
		}
		return number(float64(used.Maxrss)/1024, "MB"), nil
	})
}

// measure prints what fn took: time, the memory that it returns, and transactions.
func (d *sharedKeys) measure(name string, fn func() (memory string, err error)) error {
	fmt.Fprintln(os.Stderr, name)
	before, err := transactions(d.conn)
	if err != nil {
		return err
	}
	began := time.Now()
	memory, err := fn()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(began)
	after, err := transactions(d.conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, databaseRow, name, number(took.Seconds(), "s"), memory, strconv.FormatInt(after-before, 10))
	return nil
}

// peak returns the most memory that the process has had.
func (s *side) peak() string {
	return number(memoryOf(strconv.Itoa(s.cmd.Process.Pid), "VmHWM"), "MB")
}

// untilReady waits until the node says that it is ready, or is not.
func (s *side) untilReady(want bool) error {
	return until("the node does not follow", func() (bool, error) {
		res, err := http.Get("http://" + s.admin + "/till/ready")
		if err != nil {
			return false, err
		}
		return (res.StatusCode == http.StatusOK) == want, res.Body.Close()
	})
}
