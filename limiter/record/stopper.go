package record

// Stopper is the caller who suspended a key, with what is needed to judge who may lift
// the suspension. The zero value, in records from before this was kept, is the operator.
type Stopper struct {
	Name  string `json:"name"`
	Token string `json:"token,omitempty"` // id of the admin token
	// Sees is what the stopper's role saw. Empty: the operator, or till itself.
	Sees Sight `json:"sees,omitempty"`
}

func (s Stopper) Rank() int {
	switch s.Sees {
	case SeesOwn:
		return 0
	case SeesRole:
		return 1
	case SeesAll:
		return 2
	}
	return 3
}

// Above reports whether one stopper sees more keys than another.
func (s Stopper) Above(other Stopper) bool { return s.Rank() > other.Rank() }

// Title is what the stopper is called.
func (s Stopper) Title() string {
	if s.Name == "" {
		return OperatorName
	}
	return s.Name
}
