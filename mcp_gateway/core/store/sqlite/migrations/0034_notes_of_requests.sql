-- What is noted of a request in tables of their own goes with it, where an operator deletes its record.
CREATE TRIGGER notes_go_with_their_requests AFTER DELETE ON requests BEGIN
DELETE FROM failed_attempts WHERE account_id = OLD.account_id AND id = OLD.id;
DELETE FROM missing_usages WHERE account_id = OLD.account_id AND id = OLD.id;
DELETE FROM request_repeats WHERE account_id = OLD.account_id AND id = OLD.id;
END;
