package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// factor is one thing about a life that may be one of several ways.
type factor struct {
	name   string
	levels []string
}

// choice is a level of a factor, by their places.
type choice struct{ factor, level int }

// pair is two choices, that of the earlier factor first.
type pair [2]choice

func pairOf(a, b choice) pair {
	if a.factor > b.factor {
		a, b = b, a
	}
	return pair{a, b}
}

// unset is where a life has no level yet.
const unset = -1

// array makes rows in which every pair of levels of any two factors occurs, as far
// as none of the forbidden ones makes that impossible.
type array struct {
	factors []factor
	random  *rand.Rand
	first   []int  // number of each factor's first level, among the levels of all
	never   []pair // pairs that fit into no row, although no rule forbids them
	wanted  int    // pairs that fit into a row
	left    int    // of them, that no row has yet

	forbidden, open [][]bool // by the numbers of two levels, both ways
}

func newArray(factors []factor, forbidden map[pair]bool, seed uint64) *array {
	a := &array{factors: factors, random: rand.New(rand.NewPCG(seed, seed))}
	all := 0
	for _, f := range factors {
		a.first = append(a.first, all)
		all += len(f.levels)
	}
	for range all {
		a.forbidden, a.open = append(a.forbidden, make([]bool, all)), append(a.open, make([]bool, all))
	}
	for p := range forbidden {
		a.put(a.forbidden, p, true)
	}
	for p := range a.pairs() {
		if forbidden[p] {
			continue
		}
		row := a.around(p)
		if !a.completes(row) {
			a.never = append(a.never, p)
			continue
		}
		a.put(a.open, p, true)
		a.wanted++
	}
	a.left = a.wanted
	return a
}

// pairs goes over all, in order.
func (a *array) pairs() func(yield func(pair) bool) {
	return func(yield func(pair) bool) {
		for i, f := range a.factors {
			for j := range i {
				for k := range a.factors[j].levels {
					for l := range f.levels {
						if !yield(pair{{j, k}, {i, l}}) {
							return
						}
					}
				}
			}
		}
	}
}

func (a *array) number(c choice) int { return a.first[c.factor] + c.level }

func (a *array) put(in [][]bool, p pair, to bool) {
	m, n := a.number(p[0]), a.number(p[1])
	in[m][n], in[n][m] = to, to
}

// around is a row that has a pair, and nothing else yet.
func (a *array) around(p pair) []int {
	row := slices.Repeat([]int{unset}, len(a.factors))
	row[p[0].factor], row[p[1].factor] = p[0].level, p[1].level
	return row
}

// count is how many of the pairs that a level makes with those of a row are in a set.
func (a *array) count(in [][]bool, row []int, c choice) (n int) {
	with := in[a.number(c)]
	for f, level := range row {
		if level != unset && f != c.factor && with[a.first[f]+level] {
			n++
		}
	}
	return n
}

// completes reports whether the rest of a row can be filled in.
func (a *array) completes(row []int) bool {
	for f, level := range row {
		if level == unset && !slices.ContainsFunc(a.levels(f), func(c choice) bool { return a.count(a.forbidden, row, c) == 0 }) {
			return false // seen at once, where to search for it takes long
		}
	}
	return a.complete(row, 0)
}

func (a *array) levels(f int) (all []choice) {
	for level := range a.factors[f].levels {
		all = append(all, choice{f, level})
	}
	return all
}

func (a *array) complete(row []int, from int) bool {
	for from < len(row) && row[from] != unset {
		from++
	}
	if from == len(row) {
		return true
	}
	defer func() { row[from] = unset }()
	for level := range a.factors[from].levels {
		row[from] = level
		if a.count(a.forbidden, row, choice{from, level}) == 0 && a.complete(row, from+1) {
			return true
		}
	}
	return false
}

// fill is one row around a pair: factor by factor the level that closes most.
func (a *array) fill(p pair) (row []int, closes int) {
	row, closes = a.around(p), 1
	for _, f := range a.random.Perm(len(a.factors)) {
		if row[f] != unset {
			continue
		}
		best, most := unset, -1
		for _, level := range a.random.Perm(len(a.factors[f].levels)) {
			c := choice{f, level}
			n := a.count(a.open, row, c)
			if n <= most || a.count(a.forbidden, row, c) > 0 {
				continue
			}
			row[f] = level
			if a.completes(row) {
				best, most = level, n
			}
			row[f] = unset
		}
		row[f] = best
		closes += most
	}
	return row, closes
}

// rows makes all of them, those that close most first.
func (a *array) rows() (rows [][]int) {
	const tries = 12
	for a.left > 0 {
		var open []pair
		for p := range a.pairs() {
			if a.open[a.number(p[0])][a.number(p[1])] {
				open = append(open, p)
			}
		}
		var best []int
		most := 0
		for range tries {
			if row, n := a.fill(open[a.random.IntN(len(open))]); n > most {
				best, most = row, n
			}
		}
		a.close(best)
		rows = append(rows, best)
	}
	return rows
}

// close strikes out the pairs of a row.
func (a *array) close(row []int) {
	for i, k := range row {
		for j := range i {
			p := pair{{j, row[j]}, {i, k}}
			if a.open[a.number(p[0])][a.number(p[1])] {
				a.left--
			}
			a.put(a.open, p, false)
		}
	}
}

// covered counts the pairs that are in some of the rows.
func (a *array) covered(rows [][]int) int {
	seen := make(map[pair]bool)
	for _, row := range rows {
		for i, k := range row {
			for j := range i {
				seen[pair{{j, row[j]}, {i, k}}] = true
			}
		}
	}
	return len(seen)
}

func (a *array) String(p pair) string {
	var words []string
	for _, c := range p {
		words = append(words, a.factors[c.factor].name+"="+a.factors[c.factor].levels[c.level])
	}
	return strings.Join(words, " ")
}

// TestTheArrayHasEveryPair checks the generator with a count of its own.
func TestTheArrayHasEveryPair(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		var factors []factor
		for i := range 8 {
			f := factor{name: fmt.Sprint("f", i)}
			for j := range 2 + random.IntN(5) {
				f.levels = append(f.levels, fmt.Sprint(j))
			}
			factors = append(factors, f)
		}
		forbidden := make(map[pair]bool)
		for range 12 {
			i, j := random.IntN(8), random.IntN(8)
			if i != j {
				forbidden[pairOf(choice{i, random.IntN(len(factors[i].levels))}, choice{j, random.IntN(len(factors[j].levels))})] = true
			}
		}
		a := newArray(factors, forbidden, seed)
		rows := a.rows()
		seen := make(map[pair]bool)
		for _, row := range rows {
			for i, k := range row {
				for j := range i {
					p := pairOf(choice{i, k}, choice{j, row[j]})
					if forbidden[p] {
						t.Errorf("seed %d: a row has %s", seed, a.String(p))
					}
					seen[p] = true
				}
			}
		}
		all := 0
		for i, f := range factors {
			for j := range i {
				all += len(f.levels) * len(factors[j].levels)
			}
		}
		if len(seen) != all-len(forbidden)-len(a.never) || len(seen) != a.wanted {
			t.Errorf("seed %d: %d pairs of %d, less %d forbidden and %d that fit nowhere", seed, len(seen), all, len(forbidden), len(a.never))
		}
		t.Logf("seed %d: %d pairs in %d rows", seed, len(seen), len(rows))
	}
}
