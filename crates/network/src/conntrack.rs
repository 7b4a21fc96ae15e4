//! Connection tracking: forgetting connections whose destination is gone.
