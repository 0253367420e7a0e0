package limiter_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// tortureVariable holds how much `make torture` wants.
const tortureVariable = "TILL_TORTURE"

// ciVariable is set by `make thorough`.
const ciVariable = "TILL_CI"

// tortureSize is how many cases to try: a few when nobody says, as many as CI
// does when ciVariable is set, or what tortureVariable says.
func tortureSize(t testing.TB, few, ci int) int {
	t.Helper()
	text := os.Getenv(tortureVariable)
	if text == "" {
		if os.Getenv(ciVariable) != "" {
			return ci
		}
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s must be a positive number, got %q", tortureVariable, text)
	}
	return n
}

// image is a directory in memory, without the holes of its files.
type image map[string]*fileImage

type fileImage struct {
	size   int64
	blocks map[int64][]byte // those that are not zero
	used   []int64          // their places, in order
}

const imageBlock = 4096

func readImage(t *testing.T, dir string) image {
	t.Helper()
	im := make(image)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		f := &fileImage{size: int64(len(b)), blocks: make(map[int64][]byte)}
		zero := make([]byte, imageBlock)
		for at := 0; at < len(b); at += imageBlock {
			if block := b[at:min(at+imageBlock, len(b))]; !bytes.Equal(block, zero[:len(block)]) {
				f.blocks[int64(at)] = bytes.Clone(block)
			}
		}
		f.used = slices.Sorted(maps.Keys(f.blocks))
		im[e.Name()] = f
	}
	return im
}

func (im image) write(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, f := range im {
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for at, block := range f.blocks {
			if _, err := file.WriteAt(block, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Truncate(f.size); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// damage flips bits of one byte, or cuts the file, and says what it did.
func (im image) damage(t *testing.T, dir string, random *rand.Rand) string {
	t.Helper()
	names := slices.Sorted(maps.Keys(im))
	names = slices.DeleteFunc(names, func(n string) bool { return n == "LOCK" || n == "till.lock" || im[n].size == 0 })
	name := names[random.IntN(len(names))]
	f := im[name]
	path := filepath.Join(dir, name)
	at := random.Int64N(f.size)
	if len(f.used) > 0 && random.IntN(20) > 0 { // where there is something
		block := f.used[random.IntN(len(f.used))]
		at = block + random.Int64N(int64(len(f.blocks[block])))
	}
	if random.IntN(3) == 0 {
		if err := os.Truncate(path, at); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s cut at %d", name, at)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	mask := byte(1) << random.IntN(8)
	if random.IntN(2) == 0 {
		mask = byte(1 + random.IntN(255))
	}
	b[0] ^= mask
	if _, err := file.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s byte %d by %02x", name, at, mask)
}

// damaged is what was true of a key before its store was damaged.
type damaged struct {
	lookup      token.Lookup
	limit, used int64
	revoked     bool
}

// template makes a store with keys that were used, and returns its directory as
// a kill leaves it, or as a clean stop does.
func template(t *testing.T, killed bool) (image, []damaged) {
	t.Helper()
	dir := filepath.Join(memoryDir(t), "store")
	clock := &fakeClock{now: time.Now()} // stands still, so that nothing is written by itself while the files are read
	open := func() *limiter.Limiter {
		s, err := store.OpenBadger(dir, discard)
		if err != nil {
			t.Fatal(err)
		}
		s.(*store.Badger).ClosePatience = patience
		l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Shadow: filepath.Join(dir, "shadow"), Anchor: filepath.Join(dir, "anchor"), Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	w := &world{t: t, Limiter: open()}
	var keys []*key
	for i := range 12 {
		keys = append(keys, w.mint(activations(int64(20+30*i))))
	}
	var truth []damaged
	for i, k := range keys {
		truth = append(truth, damaged{lookup: k.lookup, limit: int64(20 + 30*i)})
	}
	use := func() {
		for i, k := range keys {
			for range 8 + i {
				if k.use() == "" {
					truth[i].used++
				}
			}
		}
	}
	use()
	if err := w.Close(); err != nil { // the tables
		t.Fatal(err)
	}
	w.Limiter = open()
	use()
	for i := range keys {
		if i%4 == 3 {
			if _, _, err := w.Revoke(ctx, limiter.Operator, keys[i].id, ""); err != nil {
				t.Fatal(err)
			}
			truth[i].revoked = true
		}
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if killed {
		im := readImage(t, dir)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return im, truth
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return readImage(t, dir), truth
}

const helperVariable = "TILL_DAMAGE_HELPER"

// TestDamageHelper is no test: it is the process that opens damaged stores, one
// directory a line, because Badger may end it. For each key, by the hash of its
// string, it says how many requests it admits.
func TestDamageHelper(t *testing.T) {
	if os.Getenv(helperVariable) == "" {
		t.Skip("run by TestDamageNeverMakesLessSpent")
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		dir, lookups, _ := strings.Cut(lines.Text(), " ")
		fmt.Println("answer " + admitted(dir, strings.Fields(lookups)))
	}
}

func admitted(dir string, lookups []string) string {
	s, err := store.OpenBadger(dir, discard)
	if err != nil {
		return "closed"
	}
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Shadow: filepath.Join(dir, "shadow"), Anchor: filepath.Join(dir, "anchor")})
	if err != nil {
		_ = s.Close()
		return "closed"
	}
	defer l.Close() //nolint:errcheck // it may have failed: that is the point
	var counts []string
	for _, text := range lookups {
		var lookup token.Lookup
		if n, err := hex.Decode(lookup[:], []byte(text)); err != nil || n != len(lookup) {
			return fmt.Sprint(text, " is no lookup: ", err)
		}
		n := 0
		for {
			k, refusal := l.Find(ctx, lookup)
			if refusal != nil {
				break
			}
			var g limiter.Grant
			ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/"}
			if k.Reserve(ctx, ask, &g) != nil {
				break
			}
			g.Settle(record.Amounts{record.Activations: 1})
			n++
		}
		counts = append(counts, strconv.Itoa(n))
	}
	return "open " + strings.Join(counts, " ")
}

// helper is a running TestDamageHelper.
type helper struct {
	cmd *exec.Cmd
	log *bytes.Buffer
	in  io.WriteCloser
	out *bufio.Reader
}

func startHelper(t *testing.T) *helper {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDamageHelper$")
	cmd.Env = append(os.Environ(), helperVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &helper{cmd, log, in, bufio.NewReader(out)}
}

// open returns what the helper says of a directory; "" when it has ended.
func (h *helper) open(dir string, truth []damaged) string {
	line := dir
	for _, k := range truth {
		line += " " + hex.EncodeToString(k.lookup[:])
	}
	if _, err := io.WriteString(h.in, line+"\n"); err != nil {
		return ""
	}
	for {
		answer, err := h.out.ReadString('\n')
		if err != nil {
			return ""
		}
		if rest, ok := strings.CutPrefix(answer, "answer "); ok {
			return strings.TrimSpace(rest)
		}
	}
}

func (h *helper) end(t *testing.T) {
	_ = h.in.Close()
	if err := h.cmd.Wait(); err != nil {
		t.Logf("the process ended: %v: %.600s", err, h.log)
	}
}

// TestDamageNeverMakesLessSpent flips bytes and cuts files of the store, the
// anchor and the shadow counter. Afterwards no key may admit more than was left
// of it, unless everything stays closed.
func TestDamageNeverMakesLessSpent(t *testing.T) {
	t.Parallel()
	n := tortureSize(t, 20, 500)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	var whole, closed, ended, extra int
	forfeited := int64(0)
	root := memoryDir(t)
	h := startHelper(t)
	defer func() { h.end(t) }()
	for _, killed := range []bool{true, false} {
		im, truth := template(t, killed)
		for i := range n / 2 {
			dir := filepath.Join(root, fmt.Sprintf("%v-%d", killed, i))
			im.write(t, dir)
			what := "nothing"
			if i > 0 {
				what = im.damage(t, dir, random)
			}
			answer := h.open(dir, truth)
			switch counts := strings.Fields(answer); {
			case answer == "":
				ended++
				t.Log(what)
				h.end(t)
				h = startHelper(t)
			case answer == "closed":
				closed++
			case len(counts) == len(truth)+1 && counts[0] == "open":
				whole++
				left := forfeited
				for j, k := range truth {
					got, err := strconv.ParseInt(counts[j+1], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					if k.used+got > k.limit || k.revoked && got > 0 {
						extra++
						t.Errorf("%s, killed %v: key %d of %d, revoked %v, admits %d more after %d", what, killed, j, k.limit, k.revoked, got, k.used)
					}
					if !k.revoked {
						forfeited += k.limit - k.used - got
					}
				}
				if i == 0 && forfeited != left {
					t.Errorf("without damage, killed %v: %q", killed, answer)
				}
			default:
				t.Fatalf("%s: the helper says %q", what, answer)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d damaged stores: %d open, %d closed, %d ended the process; %d extra, %d activations forfeited or refused", whole+closed+ended, whole, closed, ended, extra, forfeited)
}

// FuzzAnchor puts anything in place of the anchor: a key never has more left than
// it had.
func FuzzAnchor(f *testing.F) {
	w := newMachine(f)
	k := w.mint(activations(100))
	for range 40 {
		k.use()
	}
	w.Abandon()
	left := w.disk.Restarted(true, func() bool { return true })
	anchor, err := left.Files().ReadFile(w.anchor)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(anchor)
	f.Add(anchor[:700])
	f.Fuzz(func(t *testing.T, anchor []byte) {
		disk := left.Restarted(false, nil)
		if err := disk.Files().Replace(w.anchor, anchor); err != nil {
			t.Fatal(err)
		}
		l, err := limiter.Open(limiter.Options{Patience: patience, Store: disk.Open(), Disk: disk.Files(), Anchor: w.anchor, Clock: w.clock})
		if err != nil {
			return
		}
		next := &world{t: t, Limiter: l}
		defer l.Abandon()
		if n := (&key{next, k.id, k.lookup}).drain(record.CodeActivationsExhausted); n > 60 {
			t.Errorf("%d left of a key that had 60", n)
		}
	})
}
