package record

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is a token bucket: N requests per Per, with a bucket that holds N. The
// zero Rate limits nothing. It lives in memory: a restart fills the bucket.
type Rate struct {
	N   int64
	Per time.Duration
}

var ratePeriods = map[string]time.Duration{
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
}

// maxRateN keeps the spacing of a rate above zero nanoseconds.
const maxRateN = 1_000_000

// parseRate reads "60/m": a count, a slash, and one of s, m, h, d.
func parseRate(s string) (Rate, error) {
	count, unit, found := strings.Cut(s, "/")
	n, err := strconv.ParseInt(count, 10, 64)
	per, known := ratePeriods[unit]
	if !found || err != nil || !known || n < 1 || n > maxRateN {
		return Rate{}, fmt.Errorf(
			"rate %q must be a count from 1 to %d, a slash and one of s, m, h, d, such as 60/m", s, maxRateN)
	}
	return Rate{N: n, Per: per}, nil
}

// IsZero reports whether the rate limits nothing.
func (r Rate) IsZero() bool { return r == Rate{} }

// faster reports whether a rate allows more requests in the long run.
func (r Rate) faster(than Rate) bool {
	return float64(r.N)*float64(than.Per) > float64(than.N)*float64(r.Per)
}

// String returns the form that parseRate reads; empty for no rate.
func (r Rate) String() string {
	for unit, per := range ratePeriods {
		if per == r.Per {
			return fmt.Sprintf("%d/%s", r.N, unit)
		}
	}
	return ""
}

// MarshalText writes the form that parseRate reads.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the form that parseRate reads; empty is no rate.
func (r *Rate) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Rate{}
		return nil
	}
	parsed, err := parseRate(string(text))
	*r = parsed
	return err
}

// ParseCount reads a count as people write it: 500, 10k, 1M.
func ParseCount(s string) (int64, error) {
	digits, factor := s, int64(1)
	for suffix, f := range map[string]int64{"k": 1_000, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			digits, factor = rest, f
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > MaxAmount/factor {
		return 0, fmt.Errorf("a count is written 500, 10k or 1M and is at most %d, got %q", int64(MaxAmount), s)
	}
	return n * factor, nil
}
