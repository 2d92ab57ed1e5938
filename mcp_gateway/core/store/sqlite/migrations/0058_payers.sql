-- Which user paid as they let it be charged again, where one was signed in: it is theirs, and goes with them.
ALTER TABLE saved_payment_methods ADD COLUMN user_id TEXT;

CREATE INDEX saved_payment_methods_by_user ON saved_payment_methods (user_id) WHERE user_id IS NOT NULL;
