package interceptor

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// What the caller gave options for: outputs, which are filled, and OnFinish, which is called.

// appendOutputs hands the caller's own outputs to the original: so they are written as
// those of a bare call, by whoever writes them. It must be nobody who is still there when
// the call is over: an attempt that is cancelled may be left running by an interceptor.
func (c *call) appendOutputs() {
	if !c.endsInTime && (c.plan.asksHedging || c.plan.policy.AttemptTimeout > 0) {
		c.offerOutputs(&c.original)
		return
	}
	for _, o := range c.callerOpts {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
			c.original.opts = append(c.original.opts, o)
		}
	}
}

// offerOutputs gives an attempt outputs in the place of the caller's, for interceptors
// below that answer by themselves.
func (c *call) offerOutputs(a *attempt) {
	w := new(written)
	a.outputs.shown = w
	for _, o := range c.callerOpts {
		switch o.(type) {
		case grpc.HeaderCallOption:
			a.opts = append(a.opts, grpc.HeaderCallOption{HeaderAddr: &w.header})
		case grpc.TrailerCallOption:
			a.opts = append(a.opts, grpc.TrailerCallOption{TrailerAddr: &w.trailer})
		case grpc.PeerCallOption:
			a.opts = append(a.opts, grpc.PeerCallOption{PeerAddr: &w.peer})
		}
	}
}

// giveOutputs fills the caller's outputs, unless the deciding attempt is the original,
// which has written them itself, and calls the caller's OnFinish. As bare, neither
// happens before grpc has ended the attempt.
func (c *call) giveOutputs(reason EndReason, err error) {
	d := c.decided
	fill := c.wantsOutput && (d.Number > 1 || d != &c.original || d.outputs.shown != nil)
	switch {
	case !fill && !c.wantsFinish:
	case c.left(reason):
		c.fillOutputs(d.got)
		c.callOnFinish(err)
	case d.done:
		if fill {
			c.fillOutputs(d.got)
		}
		c.callOnFinish(d.got.err)
	default:
		if fill && d.seen.Err == nil && d.outputs.shown != nil { // an interceptor answers by itself
			c.fillOutputs(d.outputs.shown)
		} else if fill {
			c.fillOutputs(d.got)
		}
		c.endsLater = true
		d.outputs.whenDone(func(err error) {
			if fill {
				w, _ := d.outputs.read()
				c.fillOutputs(w)
			}
			c.callOnFinish(err)
		})
	}
}

// output fills the caller's outputs at the end of a stream from the deciding attempt and
// calls OnFinish, in the order grpc does: outputs first, and only if the attempt got a
// transport. As bare, OnFinish is not called before grpc has ended the attempt, and never
// if grpc has not heard of it.
func (c *call) output(reason EndReason, err error) {
	d := c.decided
	switch {
	case d == nil || d.got == nil:
		c.callOnFinish(err)
		return
	case d.done:
		c.fillOutputs(d.got)
	case d.finished && d.outputs.shown != nil: // another transport than grpc's
		c.fillOutputs(d.outputs.shown)
	}
	switch {
	case !c.wantsFinish:
	case c.left(reason):
		c.callOnFinish(err)
	case d.done && d.got.err == nil && c.endsInTime: // grpc may have refused what the server ended well with
		c.callOnFinish(d.seen.Err)
	case d.done:
		c.callOnFinish(d.got.err)
	default:
		d.outputs.whenDone(c.callOnFinish)
	}
}

// wroteOutputs reports whether the original has written the caller's outputs.
func (a *attempt) wroteOutputs() bool { return a.outputs.shown == nil && a.got.peer.Addr != nil }

// fillOutputs does what grpc does, which writes nothing of an attempt without a
// transport.
func (c *call) fillOutputs(w *written) {
	before := !c.streaming && (c.outputsWritten || c.original.Number == 1 && c.original.wroteOutputs())
	if w.isEmpty() && (w.shown == nil || w.shown.isEmpty()) && !before {
		return
	}
	if w.shown != nil {
		w = w.shown
	}
	for _, o := range c.callerOpts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = copyOf(w.header)
		case grpc.TrailerCallOption:
			*o.TrailerAddr = copyOf(w.trailer)
		case grpc.PeerCallOption:
			*o.PeerAddr = w.peer
		}
	}
}

func (c *call) callOnFinish(err error) {
	for _, o := range c.callerOpts {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}

// copyOf copies metadata; none stays none.
func copyOf(md metadata.MD) metadata.MD {
	if md == nil {
		return nil
	}
	return md.Copy()
}
