"""What a plan will take: memory, time, money. Pure: prices are an argument."""
