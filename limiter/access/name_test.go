package access_test

import (
	"errors"
	"testing"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/record"
)

func TestNoTokenIsNamedLikeSomebodyElseInTheAuditLog(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", "operator", "Operator", "operator ", " operator", "operator\u200b", "oper\u00adator", "operator\u00a0",
		"till", "unknown", "many", "KEY_01ARZ3NDEKTSV4RRFFQ69G5FAV",
		"\u043eperator", "OPERAT\u041eR", "\uff4fperator", "\U0001d428perator", "0perator", "tiIl", "t1ll", "ti\u217c\u217c", // letters of another script, and of other forms
		"oper\u034fator", "operator\ufe0f", "operator\u115f", "operator\u3164", "operator\u2800", // nothing to see
		"\u0430nna", // two alphabets in a word
	} {
		var wrong *record.InvalidError
		if err := access.ValidName(name, "operator", "till"); !errors.As(err, &wrong) {
			t.Errorf("a token named %q: %v, want that it is refused", name, err)
		}
	}
	for _, name := range []string{ // people have names in every script
		"Anna", "Анна", "Ольга-ci", "Ἀθηνᾶ", "Müller", "Jose\u0301", "山田 太郎", "やまだCI", "김철수", "אנה", "ci 10", "ci 1O", "anna@example.com", "🚀 deploy", "operators",
	} {
		if err := access.ValidName(name, "operator", "till"); err != nil {
			t.Errorf("a token named %q: %v", name, err)
		}
	}
}
