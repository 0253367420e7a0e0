package postgres

import "bytes"

// Pages of a scan begin small, because many readers want only the first rows.
const (
	firstPage = 32
	fullPage  = 512
)

// scan reads the rows with a prefix, page by page. Between two pages the connection is
// free for other statements.
func scan(sql queries, prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error),
	read func(page statement) ([][][]byte, error),
) error {
	low, high := bytes.Clone(prefix), pastPrefix(prefix)
	if low == nil {
		low = []byte{}
	}
	text := sql.scanUp
	if reverse {
		text = sql.scan
	}
	size := int64(firstPage)
	for {
		if after != nil && reverse && (high == nil || bytes.Compare(after, high) < 0) {
			high = after
		} else if after != nil && !reverse && bytes.Compare(after, low) >= 0 {
			low = append(bytes.Clone(after), 0) // the next possible key
		}
		rows, err := read(say(text, byteaOf(low), byteaOf(high), int8Of(size)))
		if err != nil {
			return err
		}
		for _, row := range rows {
			more, err := fn(row[0], row[1])
			if err != nil || !more {
				return err
			}
		}
		if int64(len(rows)) < size {
			return nil
		}
		after = rows[len(rows)-1][0]
		size = min(4*size, fullPage)
	}
}

// pastPrefix is the first key after all that have the prefix; nil: there is none.
func pastPrefix(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			past := bytes.Clone(prefix[:i+1])
			past[i]++
			return past
		}
	}
	return nil
}
