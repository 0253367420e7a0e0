package record

// The bounds of a page of a list.
const (
	defaultPage = 50
	maxPage     = 500
	// MaxLookedAt bounds what one page may cost when few entries match.
	MaxLookedAt = 5000
)

// PageSize checks the page size that a caller has asked for; 0 stands for the default.
func PageSize(asked int) (int, error) {
	switch {
	case asked < 0 || asked > maxPage:
		return 0, Invalid("limit", "must be from 1 to %d, got %d", maxPage, asked)
	case asked == 0:
		return defaultPage, nil
	}
	return asked, nil
}
