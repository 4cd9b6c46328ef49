package budget

// OneCell has all processors use one cell, so that ledgers are exact.
func (b *ExtraLoad) OneCell() *ExtraLoad {
	b.cells = b.cells[:1]
	return b
}

// OneCell does so for a Ratio.
func (r *Ratio) OneCell() *Ratio {
	r.account.cells = r.account.cells[:1]
	return r
}
