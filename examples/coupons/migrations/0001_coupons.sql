CREATE TABLE coupons (
    code text PRIMARY KEY,
    -- How often it can still be redeemed.
    remaining bigint NOT NULL CHECK (remaining >= 0)
);

CREATE TABLE redemptions (
    redemption_id uuid PRIMARY KEY,
    code text NOT NULL REFERENCES coupons,
    customer text NOT NULL
);

INSERT INTO coupons VALUES ('WELCOME', 100), ('LAST-ONE', 1);
