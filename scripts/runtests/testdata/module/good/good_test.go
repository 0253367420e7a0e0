package good

import "testing"

func TestOne(t *testing.T) {}

func TestMany(t *testing.T) {
	for _, name := range []string{"a", "b/c"} {
		t.Run(name, func(t *testing.T) { t.Parallel() })
	}
	t.Run("d", func(t *testing.T) { t.Skip("there is no d") })
}

func TestSkipped(t *testing.T) {
	t.Skip("not asked for: set X=1")
}
