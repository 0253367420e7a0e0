package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/till-proxy/till/token"
)

const (
	// leakChunk is how much of a file is held in memory, and leakOverlap how much
	// of that is searched again together with what follows.
	leakChunk   = 4 << 20
	leakOverlap = 64 << 10
	// maxLeakFile bounds the files of a directory, in bytes. A file that is an
	// argument itself may have any length.
	maxLeakFile = 1 << 30
	// sniffed is how much of a file is read to find out whether it is text.
	sniffed = 8 << 10
)

// place is where a string was found.
type place struct {
	leak  token.Leak
	where string // path:line, or commit:path:line
}

// search looks for strings in files and directories.
type search struct {
	binary   bool // search binary files, too
	progress *progress
	warn     func(format string, args ...any)

	places  []place
	files   int64 // that were searched
	skipped int64 // binary ones
	failed  int64 // that could not be read
	chunk   []byte
}

// tree searches every regular file below a directory. It follows no links.
func (s *search) tree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path == root:
			return err
		case err != nil:
			s.fail(path, err)
			return nil
		case d.IsDir() && d.Name() == "objects" && filepath.Base(filepath.Dir(path)) == ".git":
			return filepath.SkipDir // they are compressed; the command's help says how to search the history
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err == nil && info.Size() > maxLeakFile {
			err = fmt.Errorf("it is larger than %d MB; name it as an argument of its own", maxLeakFile>>20)
		}
		if err == nil {
			err = s.file(path, false)
		}
		if err != nil {
			s.fail(path, err)
		}
		return nil
	})
}

func (s *search) fail(path string, err error) {
	s.failed++
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	s.warn("%s: not searched: %v", path, err)
}

// file searches one file. named is true for a file that is an argument itself,
// which is searched even if it is binary.
func (s *search) file(path string, named bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if !named && !s.binary {
		head := make([]byte, sniffed)
		n, err := io.ReadFull(f, head)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if !isText(head[:n]) {
			s.skipped++
			return nil
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return s.stream(path, f)
}

// isText reports whether a file that begins with head is text: it has no zero
// bytes, or a byte order mark of UTF-16.
func isText(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\xff\xfe")) || bytes.HasPrefix(head, []byte("\xfe\xff")) || bytes.IndexByte(head, 0) < 0
}

// stream searches what a reader returns, which may have any length.
func (s *search) stream(name string, r io.Reader) error {
	s.files++
	if s.chunk == nil {
		s.chunk = make([]byte, leakChunk)
	}
	at := &tracker{name: name}
	seen := make(map[string]bool)
	have, last := 0, false
	for !last {
		n, err := io.ReadFull(r, s.chunk[have:])
		have += n
		last = err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !last {
			return err
		}
		s.progress.add(int64(n))
		text := s.chunk[:have]
		settled := have // strings that begin before this offset are not found again
		if !last {
			settled = have - leakOverlap
			if i := bytes.LastIndexByte(text[:settled], '\n'); i >= 0 && settled-i < leakOverlap {
				settled = i + 1
			}
		}
		var found []token.Leak
		token.Scan(text, func(l token.Leak) {
			if l.Offset < settled {
				found = append(found, l)
			}
		})
		slices.SortStableFunc(found, func(a, b token.Leak) int { return a.Offset - b.Offset })
		passed := 0
		for _, l := range found {
			passed = at.pass(text, passed, l.Offset)
			where := at.where(text, passed)
			if key := where + "\x00" + l.Lookup.String(); !seen[key] {
				seen[key] = true
				s.places = append(s.places, place{l, where})
			}
		}
		at.pass(text, passed, settled)
		at.partly = !last && text[settled-1] != '\n'
		have = copy(s.chunk, text[settled:])
	}
	return nil
}

// tracker follows the lines of a text, to know where a place is. In a diff, that is
// the place in the file that the diff is about.
type tracker struct {
	name   string
	line   int // lines that were passed
	partly bool

	commit           string
	oldPath, newPath string
	oldLine, newLine int // the last lines that were read in a hunk
	oldLeft, newLeft int // lines that are left in the hunk
}

// pass reads the lines from one offset up to the line that holds another, and
// returns the offset at which that line begins.
func (t *tracker) pass(text []byte, from, to int) int {
	for {
		i := bytes.IndexByte(text[from:], '\n')
		if i < 0 || from+i >= to {
			return from
		}
		if !t.partly { // otherwise only its end is in this chunk
			t.read(text[from : from+i])
		}
		t.partly = false
		t.line++
		from += i + 1
	}
}

// read follows what a complete line says about the place.
func (t *tracker) read(line []byte) {
	if t.oldLeft > 0 || t.newLeft > 0 {
		t.inHunk(line)
		return
	}
	const longest = 4 << 10 // of the header lines of a diff
	if len(line) == 0 || len(line) > longest {
		return
	}
	text := strings.TrimSuffix(string(line), "\r")
	switch line[0] {
	case 'c':
		if id, ok := strings.CutPrefix(text, "commit "); ok && len(id) >= 40 {
			t.commit, t.oldPath, t.newPath = id[:12], "", ""
		}
	case 'd':
		if strings.HasPrefix(text, "diff ") {
			t.oldPath, t.newPath = "", ""
		}
	case '-':
		if path, ok := strings.CutPrefix(text, "--- "); ok {
			t.oldPath = diffPath(path, "a/")
		}
	case '+':
		if path, ok := strings.CutPrefix(text, "+++ "); ok {
			t.newPath = diffPath(path, "b/")
		}
	case '@':
		t.hunk(text)
	}
}

func diffPath(path, side string) string {
	path, _, _ = strings.Cut(path, "\t")
	if unquoted, err := strconv.Unquote(path); err == nil {
		path = unquoted
	}
	if path == "/dev/null" {
		return ""
	}
	return strings.TrimPrefix(path, side)
}

// hunk reads "@@ -10,7 +12,8 @@ …".
func (t *tracker) hunk(text string) {
	fields := strings.Fields(text)
	if len(fields) < 4 || fields[0] != "@@" || fields[3] != "@@" || t.oldPath == "" && t.newPath == "" {
		return
	}
	old, oldLeft, ok := hunkRange(fields[1], "-")
	if !ok {
		return
	}
	next, newLeft, ok := hunkRange(fields[2], "+")
	if !ok {
		return
	}
	t.oldLine, t.oldLeft, t.newLine, t.newLeft = old-1, oldLeft, next-1, newLeft
}

func hunkRange(field, sign string) (first, count int, ok bool) {
	field, ok = strings.CutPrefix(field, sign)
	if !ok {
		return 0, 0, false
	}
	from, many, several := strings.Cut(field, ",")
	first, err := strconv.Atoi(from)
	count = 1
	if several && err == nil {
		count, err = strconv.Atoi(many)
	}
	return first, count, err == nil && first >= 0 && count >= 0
}

func (t *tracker) inHunk(line []byte) {
	kind := byte(' ')
	if len(line) > 0 {
		kind = line[0]
	}
	switch kind {
	case '+':
		t.newLine, t.newLeft = t.newLine+1, t.newLeft-1
	case '-':
		t.oldLine, t.oldLeft = t.oldLine+1, t.oldLeft-1
	case '\\': // "\ No newline at end of file"
	default:
		t.newLine, t.newLeft = t.newLine+1, t.newLeft-1
		t.oldLine, t.oldLeft = t.oldLine+1, t.oldLeft-1
	}
}

// where returns the place of the line that begins at an offset.
func (t *tracker) where(text []byte, begin int) string {
	commit := ""
	if t.commit != "" {
		commit = t.commit + ":"
	}
	if t.oldLeft > 0 || t.newLeft > 0 {
		if begin < len(text) && text[begin] == '-' && t.oldPath != "" {
			return fmt.Sprintf("%s%s:%d", commit, t.oldPath, t.oldLine+1)
		}
		return fmt.Sprintf("%s%s:%d", commit, t.newPath, t.newLine+1)
	}
	return fmt.Sprintf("%s%s:%d", commit, t.name, t.line+1)
}
